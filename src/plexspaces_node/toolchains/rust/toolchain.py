"""Rust: cargo makes an actor or an HTTP component from a project with ``Cargo.toml``.

It is an HTTP component if its Cargo.toml names a crate with bindings of `wasi:http`, and not the
SDK. Its library is compiled as a ``cdylib``. The compiler works in the project, as cargo always
does, and keeps its output in the cache of builds; the project gets a Cargo.lock if it had none.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import __version__
from plexspaces_node.errors import Internal, InvalidArgument, NotFound, quoted
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.rust.compiler import INSTALL, RustCompiler, find_rust
from plexspaces_node.toolchains.rust.library import make_standard_library
from plexspaces_node.toolchains.rust.manifest import (
    LOCK,
    Library,
    dependencies,
    library,
    outside,
    workspace,
)
from plexspaces_node.toolchains.shipped import copy_hint, shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation
from plexspaces_node.toolchains.wasm.assembly import componentize
from plexspaces_node.toolchains.wasm.producers import with_producers
from plexspaces_node.toolchains.wasm.wrap import ACTOR, CONTRACT, VERSION, wrap, wrapper_digest

SDK = "plexspaces"
"""Where a project has its copy of the SDK."""

_FLAG_SEPARATOR = "\x1f"
_SPOKEN = re.compile(rf"{CONTRACT}/[a-z]+@(?P<version>\d+\.\d+\.\d+)".encode())
_EXPORTED = re.compile(rf"{CONTRACT}/actor@[0-9.]+#init".encode())
_HTTP_CRATES = frozenset({"spin-sdk", "wasi", "wasip2", "wasip3", "wstd"})
"""Each has the bindings of `wasi:http`."""
# The names of imports of wasi:http by which a program sends requests.
_CALLS = re.compile(rb"wasi:http/(?:outgoing-handler@0\.2\.|client@0\.3\.)")
_SERVES = re.compile(rb"wasi:http/(?:incoming-)?handler@[0-9.]+")
_NO_EXPORT = re.compile(rf"failed to find export of interface `{CONTRACT}/actor@")
_NO_SDK = re.compile(r"failed to (?:load|get) .*`plexspaces`")
_NOT_LINKED = re.compile(r"use `cargo add ([\w-]+)`")
_COMPILES_C = re.compile(
    r"failed to run custom build command for `(\S+) v.*error occurred in cc-rs", re.S
)
_NOT_WRITABLE = re.compile(rf"failed to write `?.*{re.escape(LOCK)}")

# Only the project affects the result, not the variables of the user.
_DROPPED = frozenset(
    {
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    }
)
_DROPPED_PREFIXES = ("CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_")


@dataclass(frozen=True, slots=True)
class RustToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.RUST
    install: str = INSTALL

    def kind_of(self, project: Path) -> ArtifactKind:
        named = dependencies(project)
        serves = SDK not in named and not _HTTP_CRATES.isdisjoint(named)
        return ArtifactKind.HTTP_COMPONENT if serves else ArtifactKind.ACTOR

    async def describe(self, environment: BuildEnvironment) -> str:
        with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
            variables = self.variables(environment, Path(scratch))
            return (await find_rust(Path(scratch), environment, variables)).described

    def ingredients(self) -> list[str]:
        return [__version__, wrapper_digest()]

    def directories(self, project: Path) -> list[Path]:
        return outside(project)

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        kept = {
            name: value
            for name, value in environment.variables.items()
            if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
        }
        # Without a home directory cargo has no place for downloaded crates.
        kept.setdefault("CARGO_HOME", str(_cargo_home(environment)))
        return {**kept, "CARGO_TERM_COLOR": "never", "TMPDIR": str(scratch)}

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> RustCompiler:
        # These are what a project can choose: the compiler, and the crates of its lock file.
        await in_thread(library, project)
        with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
            variables = self.variables(environment, Path(scratch))
            compiler = await find_rust(project, environment, variables)
            await make_standard_library(
                compiler, variables, timeout_s=environment.timeout_s, progress=progress
            )
            await _lock(project, compiler, environment, variables=variables, progress=progress)
        return compiler

    async def compile(self, compilation: Compilation) -> None:
        compiler = compilation.compiler
        assert isinstance(compiler, RustCompiler)
        found = await in_thread(library, compilation.project)
        made = compiler.home / "target" / compiler.target / "release" / f"{found.name}.wasm"
        async with compiler.alone(compilation.timeout_s):
            # Cargo names it by the library alone: an existing file may be another project's, and
            # cargo would use it if it finds nothing to compile.
            for stale in (made, made.parent / "deps" / made.name):
                stale.unlink(missing_ok=True)
            finished = await run(
                _argv(compiler, compilation.project),
                cwd=compilation.project,
                variables={**compilation.variables, **_settings(compiler, compilation.variables)},
                timeout_s=compilation.timeout_s,
            )
            if finished.status and _NO_EXPORT.search(finished.output):
                raise _no_actor(found, compilation.project)
            if finished.status:
                raise _refused("the program does not compile", finished.output, compilation.project)
            if not made.is_file():
                raise Internal(f"cargo succeeded but produced no {made.name}:\n{finished.output}")
            binary = await in_thread(made.read_bytes)
        if self.kind_of(compilation.project) is ArtifactKind.ACTOR:
            await in_thread(_finish, compilation, compiler, found, binary=binary)
        else:
            await in_thread(_finish_server, compilation, compiler, found, binary=binary)


async def _lock(
    project: Path,
    compiler: RustCompiler,
    environment: BuildEnvironment,
    *,
    variables: Mapping[str, str],
    progress: Callable[[str], None],
) -> None:
    """Make cargo choose the versions of the project's dependencies, if it has not yet."""
    if ((await in_thread(workspace, project)) / LOCK).is_file():
        return
    progress("rust: choosing the versions of the crates, for Cargo.lock")
    finished = await run(
        [str(compiler.program), "fetch", "--quiet"],
        cwd=project,
        variables={**variables, "RUSTC": str(compiler.rustc)},
        timeout_s=environment.timeout_s,
    )
    if finished.status:
        raise _refused("the project cannot be built", finished.output, project)


async def install(environment: BuildEnvironment, *, progress: Callable[[str], None]) -> Path:
    """Prepare what the first build would, and return the directory of the standard library.

    Does nothing if it exists. Raises `Unsupported` with how to install a compiler, and what
    `make_standard_library` raises.
    """
    toolchain = RustToolchain()
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
        variables = toolchain.variables(environment, Path(scratch))
        compiler = await find_rust(Path(scratch), environment, variables)
        await make_standard_library(
            compiler, variables, timeout_s=environment.timeout_s, progress=progress
        )
    return compiler.sysroot or compiler.installed


def _cargo_home(environment: BuildEnvironment) -> Path:
    home = environment.variables.get("HOME")
    return Path(home, ".cargo") if home else environment.cache / "cargo"


def _argv(compiler: RustCompiler, project: Path) -> list[str]:
    return [
        *(str(compiler.program), "rustc", "--quiet", "--release", "--target", compiler.target),
        *("--lib", "--crate-type", "cdylib"),
        *("--", f"--remap-path-prefix={project}=."),
    ]


def _settings(compiler: RustCompiler, variables: Mapping[str, str]) -> dict[str, str]:
    # No flag may contain the project's name: cargo would then compile every crate again per
    # project.
    flags = [f"--remap-path-prefix={variables['CARGO_HOME']}/registry/src=/crates"]
    with contextlib.suppress(NotFound):
        flags.append(f"--remap-path-prefix={shipped('sdk/rust')}=/plexspaces")
    if compiler.sysroot:
        flags.append(f"--sysroot={compiler.sysroot}")
    if compiler.threads:
        flags.append(f"-Clink-arg={compiler.threads}")
    if compiler.linker:
        flags.append(f"-Clinker={compiler.linker}")
    return {
        "RUSTC": str(compiler.rustc),
        "CARGO_TARGET_DIR": str(compiler.home / "target"),
        "CARGO_ENCODED_RUSTFLAGS": _FLAG_SEPARATOR.join(flags),
    }


def _finish(
    compilation: Compilation, compiler: RustCompiler, found: Library, *, binary: bytes
) -> None:
    if not _EXPORTED.search(binary):
        raise _no_actor(found, compilation.project)
    if compiler.makes_components:
        _check_component(binary)
    elif _CALLS.search(binary):
        # The wrapper knows the contract and no more; the crates say themselves what they import.
        binary = componentize(binary)
        _check_component(binary)
    else:
        binary = wrap(binary, hint=_sdk_hint())
    made_by = {
        "language": {"Rust": compiler.version.partition(" ")[0]},
        "sdk": {"plexspaces": __version__},
    }
    compilation.output.write_bytes(with_producers(binary, made_by))


def _finish_server(
    compilation: Compilation, compiler: RustCompiler, found: Library, *, binary: bytes
) -> None:
    if not _SERVES.search(binary):
        raise _no_server(found, compilation.project)
    if not compiler.makes_components:
        binary = componentize(binary)
    made_by = {"language": {"Rust": compiler.version.partition(" ")[0]}}
    compilation.output.write_bytes(with_producers(binary, made_by))


def _check_component(binary: bytes) -> None:
    """Refuse a component of another version of the contract, as `wrap` does for modules."""
    foreign = {match["version"].decode() for match in _SPOKEN.finditer(binary)} - {VERSION}
    if foreign or ACTOR.encode() not in binary:
        spoken = ", ".join(sorted(foreign)) or "another interface"
        raise InvalidArgument(
            f"the project uses {CONTRACT}@{spoken}, this version supports {VERSION}",
            hint=_sdk_hint(),
        )


def _no_actor(found: Library, project: Path) -> InvalidArgument:
    return InvalidArgument(
        f"{found.entry.relative_to(project)} exports no actor",
        hint="write plexspaces::export!(IT); with the type that implements plexspaces::Actor",
    )


def _no_server(found: Library, project: Path) -> InvalidArgument:
    return InvalidArgument(
        f"{found.entry.relative_to(project)} exports no HTTP handler",
        hint="write #[wstd::http_server] async fn main: plexspaces new rust NAME --http shows it",
    )


def _refused(what: str, output: str, project: Path) -> InvalidArgument:
    hint = None
    if _NO_SDK.search(output):
        hint = _sdk_hint()
    elif missing := dict.fromkeys(_NOT_LINKED.findall(output)):
        # Only tests see a crate in [dev-dependencies].
        hint = f"cd {quoted(project)} && cargo add {' '.join(missing)}"
    elif native := _COMPILES_C.search(output):
        hint = (
            f"{native[1]} compiles C, which cannot be used here: choose a crate in pure Rust; "
            f"see what needs it: cd {quoted(project)} && cargo tree --invert {native[1]}"
        )
    elif _NOT_WRITABLE.search(output):
        hint = f"cargo writes {LOCK}: copy {quoted(project)} to a writable location"
    return InvalidArgument(f"{what}:\n{output.strip()}", hint=hint)


def _sdk_hint() -> str:
    return copy_hint("sdk/rust", SDK)
