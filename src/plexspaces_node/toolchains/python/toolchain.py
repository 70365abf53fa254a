"""Python: componentize-py makes an actor component from a project with ``app.py``.

The interpreter is started during the build, imports the application and is frozen with it. That
writes byte code beside every imported file, so it works on a copy of the project.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import __version__
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.project import Source, digest_sources, read_sources
from plexspaces_node.toolchains.python.componentize import (
    INSTALL,
    TESTED_VERSION,
    arguments,
    interpreter_variables,
)
from plexspaces_node.toolchains.python.library import (
    VENDOR,
    keep,
    make_standard_library,
    opened,
    standard_library,
    zone_sources,
    zones,
)
from plexspaces_node.toolchains.python.memory import keeping
from plexspaces_node.toolchains.shipped import PYTHON_SDK, python_sdk, shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation, Compiler, find_compiler
from plexspaces_node.toolchains.wasm.producers import with_producers
from plexspaces_node.toolchains.wasm.wrap import wrapper_digest

ENTRY = "app.py"

_LIBRARY = "plexspaces.library"
_LIBRARY_VARIABLE = "PLEXSPACES_LIBRARY"
_SHIM = "plexspaces_entry"
_SHIM_SOURCE = f"""\
from plexspaces_actor import _gaps, _late

_gaps.fill()
_late.prepare("/0/{_LIBRARY}")
try:
    import app
except ImportError as exc:
    _late.explain(exc)
    raise
from plexspaces_actor import component

Actor = component.bind(app)
_late.install(component.read_kept)
"""

# The compiler mounts the directories it is given as /0, /1, ... in order.
_SDK_MOUNT = "/0/"
_PROJECT_MOUNT = "/1/"
_VENDOR_MOUNT = "/2/"
_ERROR = re.compile(r"AssertionError: (?P<words>.*?)(?:\n\s*\nCaused by:|\Z)", re.DOTALL)
_ADVICE = re.compile(r"^why: (?P<why>.*)\nhint: (?P<hint>.*)$", re.MULTILINE)
_PROJECT_FRAME = re.compile(r'^  File "(?P<file>[^/"][^"]*)", line (?P<line>\d+)', re.MULTILINE)
_SDK_FRAME = re.compile(rf'  File "{_SDK_MOUNT}[^\n]*\n(?:    [^\n]*\n)*')


@dataclass(frozen=True, slots=True)
class PythonToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.PYTHON
    program: str = "componentize-py"
    install: str = INSTALL
    version_arguments: tuple[str, ...] = ("--version",)

    def parse_version(self, output: str) -> str:
        version = output.rpartition(" ")[2]
        if version != TESTED_VERSION:
            raise Unsupported(
                f"{self.program} {version} cannot be used: it must be {TESTED_VERSION}",
                hint=self.install,
            )
        return version

    def kind_of(self, project: Path) -> ArtifactKind:
        return ArtifactKind.ACTOR

    async def describe(self, environment: BuildEnvironment) -> str:
        return (await find_compiler(self, environment)).placed

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> Compiler:
        compiler = await find_compiler(self, environment)
        await make_standard_library(compiler, environment, progress=progress)
        return compiler

    def ingredients(self) -> list[str]:
        contract = digest_sources(read_sources(shipped("wit")), ())
        sdk = digest_sources(read_sources(python_sdk()), ())
        library = digest_sources(read_sources(shipped("toolchains/locked/python")), ())
        found = digest_sources(zone_sources(zones()), ())
        return [contract, sdk, library, found, __version__, _SHIM_SOURCE, wrapper_digest()]

    def directories(self, project: Path) -> list[Path]:
        return []

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        library = str(standard_library(environment))
        return {**interpreter_variables(environment, scratch), _LIBRARY_VARIABLE: library}

    async def compile(self, compilation: Compilation) -> None:
        if not (compilation.project / ENTRY).is_file():
            raise InvalidArgument(
                f"{compilation.project} has no {ENTRY}",
                hint=f"write the actor, a subclass of plexspaces_actor.Actor, in {ENTRY}",
            )
        mounts = await in_thread(_stage, compilation)
        finished = await run(
            arguments(compilation.compiler, _SHIM, mounts, compilation.output),
            cwd=compilation.scratch,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if finished.status:
            words, hint = advised(readable(finished.output))
            raise InvalidArgument(f"{ENTRY} does not build:\n{words}", hint=hint)
        await in_thread(_stamp, compilation)


def readable(output: str) -> str:
    """Return the compiler's message with the project's paths, and only its stack."""
    match = _ERROR.search(output)
    words = match["words"] if match else output
    words = (
        _SDK_FRAME.sub("", words).replace(_PROJECT_MOUNT, "").replace(_VENDOR_MOUNT, f"{VENDOR}/")
    )
    if 'File "' not in words:
        words = words.removeprefix("Traceback (most recent call last):\n")
        words = words.removeprefix(f"{PYTHON_SDK}._errors.")
    return words.strip()


def advised(words: str) -> tuple[str, str | None]:
    """Return the message without the SDK's explanation of a failed import, and that as a hint.

    If the explanation is the whole reason, it replaces the stack.
    """
    match = _ADVICE.search(words)
    if match is None:
        return words, None
    frames = [one for one in _PROJECT_FRAME.findall(words) if not one[0].startswith(f"{VENDOR}/")]
    place = ":".join(frames[-1]) + ": " if frames else ""
    return f"{place}{match['why']}", match["hint"]


def _stage(compilation: Compilation) -> list[Path]:
    """Copy what is compiled into the scratch directory; return the directories to mount."""
    sdk = compilation.scratch / "sdk"
    project = compilation.scratch / "project"
    shutil.copytree(python_sdk(), sdk / PYTHON_SDK, ignore=shutil.ignore_patterns("__pycache__"))
    (sdk / f"{_SHIM}.py").write_text(_SHIM_SOURCE)
    for source in compilation.sources:
        _copy(source, project)
    mounts = [sdk, project]
    if (project / VENDOR).is_dir():
        mounts.append(project / VENDOR)
    zone_files = list(zone_sources(zones()))
    # Last, so that a project's own version takes precedence.
    mounts.append(compilation.scratch / "zones")
    for source in zone_files:
        _copy(source, mounts[-1])
    library = _library(compilation, zone_files, f"/{len(mounts) - 1}")
    (sdk / _LIBRARY).write_bytes(library)
    return mounts


def _library(compilation: Compilation, zone_files: list[Source], zone_mount: str) -> bytes:
    library = opened(Path(compilation.variables[_LIBRARY_VARIABLE]).read_bytes())
    own, vendored = [], []
    for source in compilation.sources:
        inside = source.relative.removeprefix(f"{VENDOR}/")
        if inside == source.relative:
            own.append(source)
        else:
            vendored.append(Source(source.path, inside))
    sdk = [Source(one.path, f"{PYTHON_SDK}/{one.relative}") for one in read_sources(python_sdk())]
    keep(library, sdk, _SDK_MOUNT.rstrip("/"))
    keep(library, own, _PROJECT_MOUNT.rstrip("/"))
    keep(library, vendored, _VENDOR_MOUNT.rstrip("/"))
    keep(library, zone_files, zone_mount)
    return library.file()


def _copy(source: Source, directory: Path) -> None:
    copy = directory / source.relative
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.path, copy)


def _stamp(compilation: Compilation) -> None:
    made_by = {
        "language": {"Python": ""},
        "processed-by": {"componentize-py": compilation.compiler.version},
        "sdk": {"plexspaces": __version__},
    }
    library = (compilation.scratch / "sdk" / _LIBRARY).read_bytes()
    component = keeping(compilation.output.read_bytes(), library)
    compilation.output.write_bytes(with_producers(component, made_by))
