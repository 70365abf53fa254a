"""The Rust compilers of a host: which of them makes WebAssembly, and how.

The best one has the standard library for ``wasm32-wasip2``, whose linker makes components. Next is
one with that for ``wasm32-wasip1``, whose modules are wrapped. If rustup's targets are not
available, the distribution's compiler works too: it comes with the sources of the standard library,
which is compiled once, against the distribution's C library, and kept with the builds.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from plexspaces_node.errors import DeadlineExceeded, Unsupported
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.places import CACHE_HINT, writing
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import VERSION_TIMEOUT_S, Compiler

COMPONENT_TARGET = "wasm32-wasip2"
MODULE_TARGET = "wasm32-wasip1"
OLDEST = (1, 85)
"""The first version with the 2024 edition, which the SDK uses."""

RUSTUP_INSTALL = f"rustup target add {COMPONENT_TARGET}"
DEBIAN_INSTALL = "apt-get install rustc-web cargo-web rust-web-src wasi-libc lld-22"
INSTALL = f"install rustup, then: {RUSTUP_INSTALL}"

_RELEASE = re.compile(r"^release: (?P<version>(?P<major>\d+)\.(?P<minor>\d+)\S*)", re.M)
_LINKER = re.compile(r"wasm-ld(?:-(?P<version>\d+))?")
LIBC_FILES = ("libc.a", "crt1-command.o", "crt1-reactor.o")
THREADS = Path("lib", "rustlib", MODULE_TARGET, "lib", "self-contained", "threads.o")
"""Where a standard library that is compiled here has its functions about threads."""
_LOCK_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class LibraryParts:
    """What a standard library is made of: directories of its sources and of the C library."""

    sources: Path
    libc: Path


@dataclass(frozen=True, slots=True)
class RustCompiler(Compiler):
    """A compiler and how to use it.

    Attributes:
        rustc: the compiler proper; `program` is its cargo.
        target: what it compiles for.
        installed: where its own standard libraries are.
        home: the directory of everything kept for this compiler, created when first needed.
        parts: what the standard library must be made of; None if it is installed.
        linker: the linker, if the compiler has none of its own.
    """

    rustc: Path
    target: str
    installed: Path
    home: Path
    parts: LibraryParts | None
    linker: Path | None

    @property
    def makes_components(self) -> bool:
        """Whether its output needs no wrapping."""
        return self.target == COMPONENT_TARGET

    @property
    def sysroot(self) -> Path | None:
        """The directory of the standard library that is compiled here."""
        return self.home / "sysroot" if self.parts else None

    @property
    def threads(self) -> Path | None:
        """What is linked to each program, so that one that starts a thread links, and is refused.

        A distribution's C library may be too old to say that there are no threads.
        """
        return self.sysroot / THREADS if self.sysroot else None

    @property
    def described(self) -> str:
        """Describe the compiler: version, place, and the way to WebAssembly."""
        version = self.version.partition(" ")[0]
        words = f"rustc {version} at {self.rustc}, "
        if self.parts is None:
            wrapped = "" if self.makes_components else ", whose modules are wrapped"
            return f"{words}with its library for {self.target}{wrapped}"
        made = self.sysroot is not None and self.sysroot.is_dir()
        when = "" if made else ", in the first build or by: plexspaces toolchain install rust"
        return f"{words}with the library for {self.target} compiled from {self.parts.sources}{when}"

    @asynccontextmanager
    async def alone(self, timeout_s: float) -> AsyncIterator[None]:
        """Make other builds by this compiler, of any process, wait meanwhile.

        Raises `DeadlineExceeded` if another one has not ended in time, and `InvalidArgument` if
        `home` cannot be created.
        """
        await in_thread(_make_home, self.home)
        with (self.home / "lock").open("ab") as lock:
            try:
                async with asyncio.timeout(timeout_s):
                    await _lock(lock.fileno())
            except TimeoutError as exc:
                raise DeadlineExceeded(
                    f"another build of Rust did not finish within {timeout_s:g} s"
                ) from exc
            os.utime(lock.name)
            yield


def _make_home(home: Path) -> None:
    with writing(f"the build cache {home}", hint=CACHE_HINT):
        for directory in (home.parent.parent, home.parent, home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)


async def _lock(descriptor: int) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_LOCK_PAUSE_S)


@dataclass(frozen=True, slots=True)
class _Candidate:
    cargo: Path
    rustc: Path
    version: str
    sysroot: Path
    about: str


async def find_rust(
    project: Path, environment: BuildEnvironment, variables: Mapping[str, str]
) -> RustCompiler:
    """Return the best compiler; raises `Unsupported` with how to install one.

    For rustup, a rust-toolchain.toml in the project decides, as usual.
    """
    found: list[RustCompiler] = []
    reasons: list[str] = []
    for directory in dict.fromkeys(environment.search):
        cargo, rustc = directory / "cargo", directory / "rustc"
        if not (os.access(cargo, os.X_OK) and os.access(rustc, os.X_OK)):
            continue
        try:
            candidate = await _examine(cargo, rustc, project, variables)
            found.append(_way(candidate, environment))
        except Unsupported as exc:
            reasons.append(exc.message)
            continue
        if found[-1].makes_components:
            break
    if not found:
        what = "; ".join(reasons) or "rustc and cargo are not installed"
        raise Unsupported(f"building rust: {what}", hint=_install(environment))
    return min(found, key=lambda one: (not one.makes_components, one.parts is not None))


async def _examine(
    cargo: Path, rustc: Path, project: Path, variables: Mapping[str, str]
) -> _Candidate:
    async def ask(*arguments: str) -> str:
        finished = await run(
            [str(rustc), *arguments], cwd=project, variables=variables, timeout_s=VERSION_TIMEOUT_S
        )
        said = finished.output.strip()
        if finished.status:
            raise Unsupported(f"{rustc} does not work: {said or f'status {finished.status}'}")
        return said

    about = await ask("-vV")
    match = _RELEASE.search(about)
    if match is None or (int(match["major"]), int(match["minor"])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        named = match["version"] if match else repr(about)
        raise Unsupported(f"{rustc} is {named} and must be {oldest} or newer")
    sysroot = Path((await ask("--print", "sysroot")).splitlines()[-1])
    return _Candidate(cargo, rustc, match["version"], sysroot, about)


def _way(candidate: _Candidate, environment: BuildEnvironment) -> RustCompiler:
    installed = candidate.sysroot / "lib" / "rustlib"
    made = RustCompiler(
        program=candidate.cargo,
        version=f"{candidate.version} for {MODULE_TARGET}",
        rustc=candidate.rustc,
        target=MODULE_TARGET,
        installed=installed,
        home=environment.cache / "rust" / _key(candidate.about, MODULE_TARGET),
        parts=None,
        linker=None,
    )
    if (installed / COMPONENT_TARGET / "lib").is_dir():
        return replace(
            made,
            version=f"{candidate.version} for {COMPONENT_TARGET}",
            target=COMPONENT_TARGET,
            home=environment.cache / "rust" / _key(candidate.about, COMPONENT_TARGET),
        )
    if (installed / MODULE_TARGET / "lib" / "self-contained" / "libc.a").is_file():
        return made
    sources = installed / "src" / "rust" / "library"
    libc = environment.wasi_libc
    linker = _linker(environment)
    missing = [
        what
        for what, there in (
            ("the sources of its standard library", (sources / "std").is_dir()),
            (
                f"a C library for WASI in {libc}",
                all((libc / name).is_file() for name in LIBC_FILES),
            ),
            ("wasm-ld", linker is not None),
        )
        if not there
    ]
    if missing or linker is None:
        raise Unsupported(
            f"{candidate.rustc} has no standard library for {COMPONENT_TARGET}, and to compile one "
            f"for {MODULE_TARGET} it lacks {' and '.join(missing)}"
        )
    # A package may change without a new version.
    files = (candidate.rustc, sources / "std" / "Cargo.toml", libc / "libc.a", linker)
    changed = (f"{file} {file.stat().st_mtime_ns}" for file in files)
    key = _key(candidate.about, *changed, threads_source().read_text())
    return replace(
        made,
        home=environment.cache / "rust" / key,
        parts=LibraryParts(sources, libc),
        linker=linker,
    )


def threads_source() -> Path:
    """Return the source of what `RustCompiler.threads` is compiled from."""
    return shipped("toolchains/locked/rust") / "threads.rs"


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _linker(environment: BuildEnvironment) -> Path | None:
    """Return the newest wasm-ld: it must know what the compiler's LLVM writes."""
    found: dict[int, Path] = {}
    for directory in environment.search:
        for path in directory.glob("wasm-ld*"):
            match = _LINKER.fullmatch(path.name)
            if match and os.access(path, os.X_OK):
                found.setdefault(int(match["version"] or 0), path)
    return found[max(found)] if found else None


def _install(environment: BuildEnvironment) -> str:
    there = {
        name for d in environment.search for name in ("rustup", "apt-get") if (d / name).is_file()
    }
    ways = [
        command
        for name, command in (("rustup", RUSTUP_INSTALL), ("apt-get", DEBIAN_INSTALL))
        if name in there
    ]
    # One line for a shell: the second command if the first does not help.
    return " || ".join(ways) or INSTALL
