"""Python: a project with ``app.py`` becomes an actor component, through componentize-py.

The interpreter is started while building, imports the application and is frozen with it. That
run writes byte code beside every file it imports, so it works on a copy of the project.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import __version__
from plexspaces_node.build.environment import BuildEnvironment
from plexspaces_node.build.process import run
from plexspaces_node.build.producers import with_producers
from plexspaces_node.build.project import digest_sources, read_sources
from plexspaces_node.build.python_memory import freeing_bytes
from plexspaces_node.build.shipped import PYTHON_SDK, python_sdk, shipped
from plexspaces_node.build.threads import in_thread
from plexspaces_node.build.toolchain import Compilation, Compiler, find_compiler
from plexspaces_node.build.wrap import wrapper_digest
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.model import ArtifactKind, Language

WORLD = "application"
ENTRY = "app.py"
VENDOR = "vendor"
"""Directory of the project for packages in pure Python: `pip install --target vendor NAME`."""

TESTED_VERSION = "0.25.1"
"""The bindings of other series have other names. Of any other version it must first be seen that it
leaves the bytes that are freed here (`python_memory`), or they would be freed twice."""

_SHIM = "plexspaces_entry"
_SHIM_SOURCE = """\
import app
from plexspaces import component

Actor = component.bind(app)
"""

# The compiler mounts the directories it is given as /0, /1, ... in their order.
_SDK_MOUNT = "/0/"
_PROJECT_MOUNT = "/1/"
_ERROR = re.compile(r"AssertionError: (?P<words>.*?)(?:\n\s*\nCaused by:|\Z)", re.DOTALL)
_SDK_FRAME = re.compile(rf'  File "{_SDK_MOUNT}[^\n]*\n(?:    [^\n]*\n)*')


@dataclass(frozen=True, slots=True)
class PythonToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.PYTHON
    program: str = "componentize-py"
    install: str = "pip install 'plexspaces-node[build-python]'"
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
        return await find_compiler(self, environment)

    def ingredients(self) -> list[str]:
        contract = digest_sources(read_sources(shipped("wit")), ())
        sdk = digest_sources(read_sources(python_sdk()), ())
        return [contract, sdk, __version__, _SHIM_SOURCE, wrapper_digest()]

    def directories(self, project: Path) -> list[Path]:
        return []

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        # Packages of the node's own environment must not leak into an application: the compiler
        # searches the virtual environment it is told of, so it is told of an empty one.
        empty = scratch / "venv"
        (empty / "lib" / "python3" / "site-packages").mkdir(parents=True, exist_ok=True)
        return {
            "PATH": environment.variables.get("PATH", os.defpath),
            "TMPDIR": str(scratch),
            "VIRTUAL_ENV": str(empty),
        }

    async def compile(self, compilation: Compilation) -> None:
        if not (compilation.project / ENTRY).is_file():
            raise InvalidArgument(
                f"{compilation.project} has no {ENTRY}",
                hint=f"write the application's actor, a subclass of plexspaces.Actor, in {ENTRY}",
            )
        mounts = await in_thread(_stage, compilation)
        finished = await run(
            _argv(compilation, mounts),
            cwd=compilation.scratch,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if finished.status:
            raise InvalidArgument(f"{ENTRY} does not build:\n{readable(finished.output)}")
        await in_thread(_stamp, compilation)


def readable(output: str) -> str:
    """Return the compiler's words without its own and the SDK's stack, with the project's paths."""
    match = _ERROR.search(output)
    words = match["words"] if match else output
    words = _SDK_FRAME.sub("", words).replace(_PROJECT_MOUNT, "")
    if 'File "' not in words:
        words = words.removeprefix("Traceback (most recent call last):\n")
        words = words.removeprefix(f"{PYTHON_SDK}._errors.")
    return words.strip()


def _argv(compilation: Compilation, mounts: list[Path]) -> list[str]:
    paths = [part for mount in mounts for part in ("-p", str(mount))]
    return [
        str(compilation.compiler.program),
        "--quiet",
        *("--wit-path", str(shipped("wit")), "--world", WORLD),
        *("componentize", _SHIM, *paths, "--output", str(compilation.output)),
    ]


def _stage(compilation: Compilation) -> list[Path]:
    """Copy what is compiled into the scratch directory; return the directories to mount."""
    sdk = compilation.scratch / "sdk"
    project = compilation.scratch / "project"
    shutil.copytree(python_sdk(), sdk / PYTHON_SDK, ignore=shutil.ignore_patterns("__pycache__"))
    (sdk / f"{_SHIM}.py").write_text(_SHIM_SOURCE)
    for source in compilation.sources:
        copy = project / source.relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path, copy)
    vendor = project / VENDOR
    return [sdk, project, vendor] if vendor.is_dir() else [sdk, project]


def _stamp(compilation: Compilation) -> None:
    made_by = {
        "language": {"Python": ""},
        "processed-by": {"componentize-py": compilation.compiler.version},
        "sdk": {"plexspaces": __version__},
    }
    component = freeing_bytes(compilation.output.read_bytes())
    compilation.output.write_bytes(with_producers(component, made_by))
