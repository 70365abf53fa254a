"""Builds a project, or takes the result from the cache if nothing changed.

This module defines the order of the steps and where files go; the toolchains know how a language is
compiled.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, Unsupported, quoted
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.cache import BuildCache
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.go.toolchain import GoToolchain
from plexspaces_node.toolchains.places import writing
from plexspaces_node.toolchains.project import (
    Source,
    default_output,
    detect,
    digest_sources,
    project_name,
    read_sources,
)
from plexspaces_node.toolchains.python.toolchain import PythonToolchain
from plexspaces_node.toolchains.rust.toolchain import RustToolchain
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation, Compiler, Toolchain
from plexspaces_node.toolchains.typescript.toolchain import TypeScriptToolchain

TOOLCHAINS: tuple[Toolchain, ...] = (
    PythonToolchain(),
    GoToolchain(),
    TypeScriptToolchain(),
    RustToolchain(),
)

_WASM_MAGIC = b"\0asm"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished build.

    Attributes:
        path: the artifact.
        duration_ns: wall time of the whole build.
        cached: nothing had changed, so no compiler ran.
    """

    path: Path
    language: Language
    kind: ArtifactKind
    size_bytes: int
    duration_ns: int
    cached: bool


async def build(
    project: Path,
    output: Path | None = None,
    *,
    progress: Callable[[str], None],
    environment: BuildEnvironment | None = None,
) -> BuildResult:
    """Build a project into `output`, by default ``dist/NAME.wasm`` in the project.

    Writes nothing else to the project. `progress` is called on the event loop with one line per
    step. Cancelling ends the compiler and leaves nothing. Raises `NotFound` and `InvalidArgument`
    if it is not a project or does not compile (the message then contains the compiler's own),
    `Unsupported` for a missing language or compiler (the hint says how to install it) and
    `DeadlineExceeded` if the compiler does not end.
    """
    started = time.perf_counter_ns()
    environment = environment or BuildEnvironment.here()
    project = project.resolve()
    toolchain = _toolchain(detect(project), project)
    output = _checked_output(output or default_output(project), project)
    compiler = await toolchain.ready(project, environment, progress=progress)
    job = _Job(toolchain, compiler, project, output, environment)
    inputs = await in_thread(job.read)
    found = await in_thread(job.cache.find, inputs.digest)
    if found is None:
        progress(f"{project_name(project)}: compiling with {compiler.named}")
        await job.compile(inputs)
    else:
        progress(f"{project_name(project)}: unchanged, taken from the build cache")
        await in_thread(_copy, found, output)
    return BuildResult(
        path=output,
        language=toolchain.language,
        kind=await in_thread(toolchain.kind_of, project),
        size_bytes=output.stat().st_size,
        duration_ns=time.perf_counter_ns() - started,
        cached=found is not None,
    )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is compiled, and the digest of everything that affects the result."""

    digest: str
    sources: list[Source]


@dataclass(frozen=True, slots=True)
class _Job:
    """One build of one project."""

    toolchain: Toolchain
    compiler: Compiler
    project: Path
    output: Path
    environment: BuildEnvironment

    @property
    def cache(self) -> BuildCache:
        return BuildCache(self.environment.cache)

    def read(self) -> _Inputs:
        sources = read_sources(self.project, ignoring=self.output)
        outside = [
            source
            for directory in self.toolchain.directories(self.project)
            for source in read_sources(directory)
        ]
        salt = (self.toolchain.language, self.compiler.version, *self.toolchain.ingredients())
        return _Inputs(digest_sources([*sources, *outside], salt), sources)

    async def compile(self, inputs: _Inputs) -> None:
        with self.cache.scratch() as scratch:
            compilation = Compilation(
                compiler=self.compiler,
                project=self.project,
                sources=inputs.sources,
                scratch=scratch,
                output=scratch / "output.wasm",
                variables=self.toolchain.variables(self.environment, scratch),
                timeout_s=self.environment.timeout_s,
            )
            await self.toolchain.compile(compilation)
            await in_thread(_copy, compilation.output, self.output)
            # A file was edited meanwhile: it is unknown which version was compiled.
            if (await in_thread(self.read)).digest == inputs.digest:
                await in_thread(self.cache.store, inputs.digest, compilation.output)


def kind_of(project: Path) -> ArtifactKind:
    """Return what a project becomes. Blocks. Raises what `detect` raises."""
    return _toolchain(detect(project), project).kind_of(project)


def _toolchain(language: Language, project: Path) -> Toolchain:
    for toolchain in TOOLCHAINS:
        if toolchain.language is language:
            return toolchain
    raise Unsupported(
        f"{project} is a {language} project: building {language} is not supported yet",
        hint="build it with the language's own tools and deploy the .wasm file",
    )


def _checked_output(output: Path, project: Path) -> Path:
    output = output.absolute()
    with writing(output, hint="choose another output with -o"):
        _check_output(output, project)
    return output


def _check_output(output: Path, project: Path) -> None:
    if output != default_output(project) and not output.parent.is_dir():
        raise InvalidArgument(
            f"the directory {output.parent} does not exist",
            hint=f"mkdir -p {quoted(output.parent)}",
        )
    if output.is_dir():
        raise InvalidArgument(f"{output} is a directory", hint=f"-o {quoted(output / 'NAME.wasm')}")
    if output.exists() and not _is_replaceable(output):
        raise InvalidArgument(
            f"{output} is not a WebAssembly file and will not be overwritten",
            hint="choose another output with -o",
        )


def _is_replaceable(output: Path) -> bool:
    with output.open("rb") as file:
        return file.read(len(_WASM_MAGIC)) in (_WASM_MAGIC, b"")


def _copy(source: Path, output: Path) -> None:
    """Put a copy in place atomically; not a link, so that edits do not change the cache."""
    with writing(output.parent, hint="choose an output with -o"):
        output.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(
            prefix=f".{output.name}.", dir=output.parent, delete=False
        ) as copy:
            pass
    made = Path(copy.name)
    try:
        shutil.copyfile(source, made)
        made.chmod(0o644)
        made.replace(output)
    finally:
        made.unlink(missing_ok=True)
