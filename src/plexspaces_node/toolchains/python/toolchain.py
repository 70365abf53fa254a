"""Python: componentize-py makes a component from a project.

With ``app.py`` it is an actor, with ``server.py`` an HTTP component.

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
    World,
    actor_world,
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
from plexspaces_node.toolchains.shipped import PYTHON_SDK, http_wit, python_sdk, shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation, Compiler, find_compiler
from plexspaces_node.toolchains.wasm.producers import with_producers
from plexspaces_node.toolchains.wasm.wrap import wrapper_digest

ENTRY = "app.py"
SERVER = "server.py"
"""The entry of an HTTP component, which has an ASGI application."""

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

# Modules that nothing has imported by now cannot be imported later: there is no place for them.
_SERVER_SHIM_SOURCE = f"""\
from plexspaces_actor import _gaps, _late

_gaps.fill()
_late.prepare("/0/{_LIBRARY}")
try:
    import server
except ImportError as exc:
    _late.explain(exc)
    raise
from plexspaces_actor import asgi

Handler = asgi.bind(server)
"""

# The compiler mounts the directories it is given as /0, /1, ... in order.
_SDK_MOUNT = "/0/"
_PROJECT_MOUNT = "/1/"
_VENDOR_MOUNT = "/2/"
_FETCHES = re.compile(rb"\bfetch_sync\b")
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
        return ArtifactKind.HTTP_COMPONENT if _serves(project) else ArtifactKind.ACTOR

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
        shims = [_SHIM_SOURCE, _SERVER_SHIM_SOURCE]
        http = digest_sources(read_sources(http_wit()), ())
        return [contract, sdk, library, found, __version__, *shims, http, wrapper_digest()]

    def directories(self, project: Path) -> list[Path]:
        return []

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        library = str(standard_library(environment))
        return {**interpreter_variables(environment, scratch), _LIBRARY_VARIABLE: library}

    async def compile(self, compilation: Compilation) -> None:
        serves = _serves(compilation.project)
        entry = SERVER if serves else ENTRY
        if not (compilation.project / entry).is_file():
            raise InvalidArgument(
                f"{compilation.project} has no {ENTRY}",
                hint=f"write the actor, a subclass of plexspaces_actor.Actor, in {ENTRY}",
            )
        shim = _SERVER_SHIM_SOURCE if serves else _SHIM_SOURCE
        mounts = await in_thread(_stage, compilation, shim)
        world = await in_thread(_world, compilation, serves=serves)
        finished = await run(
            arguments(compilation.compiler, world, _SHIM, mounts, compilation.output),
            cwd=compilation.scratch,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if finished.status:
            words, hint = advised(readable(finished.output))
            raise InvalidArgument(f"{entry} does not build:\n{words}", hint=hint)
        await in_thread(_stamp, compilation, actor=not serves)


def _serves(project: Path) -> bool:
    """Whether it is an HTTP component. An actor's project may have a file named like a server."""
    return (project / SERVER).is_file() and not (project / ENTRY).is_file()


def _world(compilation: Compilation, *, serves: bool) -> World:
    if serves:
        return _server_world(compilation.scratch)
    python = (one.path for one in compilation.sources if one.path.suffix == ".py")
    return actor_world(fetches=any(_FETCHES.search(path.read_bytes()) for path in python))


def _server_world(scratch: Path) -> World:
    """Put the world of HTTP components together, with what it refers to."""
    wit = scratch / "wit"
    for part in (shipped("toolchains/locked/python/wit"), shipped("wit"), http_wit()):
        shutil.copytree(part, wit, dirs_exist_ok=True)
    return World("server", wit)


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


def _stage(compilation: Compilation, shim: str) -> list[Path]:
    """Copy what is compiled into the scratch directory; return the directories to mount."""
    sdk = compilation.scratch / "sdk"
    project = compilation.scratch / "project"
    shutil.copytree(python_sdk(), sdk / PYTHON_SDK, ignore=shutil.ignore_patterns("__pycache__"))
    (sdk / f"{_SHIM}.py").write_text(shim)
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


def _stamp(compilation: Compilation, *, actor: bool) -> None:
    made_by = {
        "language": {"Python": ""},
        "processed-by": {"componentize-py": compilation.compiler.version},
        "sdk": {"plexspaces": __version__},
    }
    component = compilation.output.read_bytes()
    if actor:
        component = keeping(component, (compilation.scratch / "sdk" / _LIBRARY).read_bytes())
    compilation.output.write_bytes(with_producers(component, made_by))
