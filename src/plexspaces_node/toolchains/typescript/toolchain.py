"""TypeScript: a project becomes a component that contains QuickJS.

With ``src/main.ts`` it is an actor, with ``src/server.ts`` an HTTP component.

Three npm packages do the work, pinned in ``toolchains/locked/typescript`` and installed by
`install`: tsc checks types, esbuild bundles, componentize-qjs makes the component. ``build.mjs``
there runs them in one Node.js process.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import __version__
from plexspaces_node.errors import Internal, InvalidArgument, Unavailable, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.places import writing
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.project import digest_sources, read_sources
from plexspaces_node.toolchains.shipped import http_wit, shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation, Compiler, find_compiler
from plexspaces_node.toolchains.typescript.stack import RESERVE_BYTES, STACK_BYTES, with_stack
from plexspaces_node.toolchains.wasm.producers import with_producers

ENTRIES = ("src/main.ts", "src/main.js")
SERVERS = ("src/server.ts", "src/server.js")
"""The entries of HTTP components."""
OLDEST_NODE = 18
INSTALL = "plexspaces toolchain install typescript"
INSTALL_TIMEOUT_S = 600.0

_DRIVER = "build.mjs"
_PACKAGES = ("package.json", "package-lock.json")
_TOOLS_VARIABLE = "PLEXSPACES_TOOLS"
_DOES_NOT_COMPILE = 1
# No package's scripts are run: all packages work as they are unpacked.
_NPM_INSTALL = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


@dataclass(frozen=True, slots=True)
class TypeScriptToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.TYPESCRIPT
    program: str = "node"
    install: str = "pip install 'plexspaces-node[build-typescript]'"
    version_arguments: tuple[str, ...] = ("--version",)

    def parse_version(self, output: str) -> str:
        version = output.removeprefix("v")
        major = version.partition(".")[0]
        if not major.isdecimal() or int(major) < OLDEST_NODE:
            raise Unsupported(
                f"Node.js {output!r} cannot be used: it must be {OLDEST_NODE} or newer",
                hint=self.install,
            )
        return version

    def kind_of(self, project: Path) -> ArtifactKind:
        serves = _entry(project) in SERVERS
        return ArtifactKind.HTTP_COMPONENT if serves else ArtifactKind.ACTOR

    async def describe(self, environment: BuildEnvironment) -> str:
        compiler = await self._compiler(environment)
        packages = ", ".join(f"{name} {version}" for name, version in _packages().items())
        return f"{compiler.placed}, with {packages} in {tools_directory(environment)}"

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> Compiler:
        return await self._compiler(environment)

    async def _compiler(self, environment: BuildEnvironment) -> Compiler:
        compiler = await find_compiler(self, environment)
        tools = tools_directory(environment)
        if not tools.is_dir():
            raise Unsupported(
                f"besides {compiler.placed}, building typescript needs esbuild, tsc and "
                f"componentize-qjs, which are not installed in {tools}",
                hint=INSTALL,
            )
        return compiler

    def ingredients(self) -> list[str]:
        parts = (_toolchain(), _sdk(), shipped("wit"), http_wit())
        shipped_files = [digest_sources(read_sources(part), ()) for part in parts]
        return [__version__, f"stack {STACK_BYTES} {RESERVE_BYTES}", *shipped_files]

    def directories(self, project: Path) -> list[Path]:
        return []

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        return {
            "PATH": environment.variables.get("PATH", os.defpath),
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            _TOOLS_VARIABLE: str(tools_directory(environment)),
        }

    async def compile(self, compilation: Compilation) -> None:
        entry = _entry(compilation.project)
        request = await in_thread(_stage, compilation, entry)
        finished = await run(
            [str(compilation.compiler.program), str(_toolchain() / _DRIVER), str(request)],
            cwd=compilation.project,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        words = finished.output.strip()
        if finished.status == _DOES_NOT_COMPILE:
            raise InvalidArgument(f"the application does not build:\n{words}")
        if finished.status:
            raise Internal(f"the TypeScript toolchain failed:\n{words}", hint=INSTALL)
        await in_thread(_stamp, compilation)


def tools_directory(environment: BuildEnvironment) -> Path:
    """Return the directory of the npm packages: one per state of the lock file."""
    packages = [source for source in read_sources(_toolchain()) if source.relative in _PACKAGES]
    digest = digest_sources(packages, ())
    return environment.toolchains / f"typescript-{digest[:16]}"


async def install(environment: BuildEnvironment, *, progress: Callable[[str], None]) -> Path:
    """Install the pinned npm packages for this user and return their directory.

    Does nothing if they are there. Two processes can run it at the same time; a failure leaves
    nothing. Raises `Unsupported` without Node.js or npm, `Unavailable` with npm's own message if it
    fails, `InvalidArgument` for a place that cannot be written, and what `process.run` raises.
    """
    tools = tools_directory(environment)
    if tools.is_dir():
        progress(f"typescript: already installed in {tools}")
        return tools
    node, npm = (_program(name, environment) for name in ("node", "npm"))
    variables = {
        **environment.variables,
        # npm is a script that begins with `env node`.
        "PATH": os.pathsep.join((str(node.parent), environment.variables.get("PATH", os.defpath))),
        "npm_config_update_notifier": "false",
    }
    progress("typescript: installing esbuild, tsc and componentize-qjs with npm")
    staged = _staging(tools.parent)
    try:
        await _npm_install(npm, staged, variables)
        await in_thread(_put, staged, tools)
    finally:
        await in_thread(shutil.rmtree, staged, ignore_errors=True)
    progress(f"typescript: installed in {tools}")
    return tools


async def _npm_install(npm: Path, directory: Path, variables: Mapping[str, str]) -> None:
    for name in _PACKAGES:
        shutil.copyfile(_toolchain() / name, directory / name)
    finished = await run(
        [str(npm), *_NPM_INSTALL],
        cwd=directory,
        variables=variables,
        timeout_s=INSTALL_TIMEOUT_S,
    )
    if finished.status:
        raise Unavailable(
            f"npm could not install the packages:\n{finished.output.strip()}",
            hint="is the npm registry reachable? npm ping",
        )


def _program(name: str, environment: BuildEnvironment) -> Path:
    for directory in environment.search:
        if os.access(directory / name, os.X_OK):
            return directory / name
    raise Unsupported(
        f"installing the TypeScript toolchain needs {name}, which is not installed",
        hint=TypeScriptToolchain().install,
    )


def _staging(directory: Path) -> Path:
    with writing(directory, hint="set XDG_DATA_HOME to a directory you can write to"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".typescript-", dir=directory))


def _put(staged: Path, tools: Path) -> None:
    try:
        staged.rename(tools)
    except OSError:
        # Another process was faster, which is just as good.
        if not tools.is_dir():
            raise


def _entry(project: Path) -> str:
    # An actor's project may have a file named like a server.
    for entry in (*ENTRIES, *SERVERS):
        if (project / entry).is_file():
            return entry
    raise InvalidArgument(
        f"{project} has no {ENTRIES[0]}",
        hint=f"write `export default actor({{ ... }})` in {ENTRIES[0]}, or "
        f"`export default {{ fetch(request) {{ ... }} }}` in {SERVERS[0]}; "
        "plexspaces new typescript NAME shows one",
    )


def _stage(compilation: Compilation, entry: str) -> Path:
    """Write the request to the driver; return the file."""
    wit = compilation.scratch / "wit"
    shutil.copytree(_toolchain() / "wit", wit)
    for source in read_sources(shipped("wit")):
        shutil.copyfile(source.path, wit / source.relative)
    serves = entry in SERVERS
    if serves:
        shutil.copytree(http_wit(), wit, dirs_exist_ok=True)
    else:
        (wit / "server.wit").unlink()
    request = compilation.scratch / "request.json"
    fields = {
        "project": compilation.project,
        "entry": entry,
        "serves": serves,
        "sdk": _sdk(),
        "wit": wit,
        "tools": compilation.variables[_TOOLS_VARIABLE],
        "scratch": compilation.scratch,
        "output": compilation.output,
    }
    request.write_text(json.dumps(fields, default=str))
    return request


def _stamp(compilation: Compilation) -> None:
    packages = _packages()
    made_by = {
        "language": {"TypeScript": ""},
        "processed-by": {"componentize-qjs": packages["componentize-qjs"]},
        "sdk": {"plexspaces": __version__},
    }
    component = with_stack(compilation.output.read_bytes())
    compilation.output.write_bytes(with_producers(component, made_by))


def _packages() -> dict[str, str]:
    packages: dict[str, str] = json.loads((_toolchain() / _PACKAGES[0]).read_text())["dependencies"]
    return packages


def _toolchain() -> Path:
    return shipped("toolchains/locked/typescript")


def _sdk() -> Path:
    return shipped("sdk/typescript")
