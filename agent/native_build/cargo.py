"""The host's cargo: found if it is new enough, or installed from the distribution.

The programs are linked statically against glibc, so a C compiler and glibc's static library are
needed too. Only root on a host with apt-get gets anything installed; others are told how.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from native_build.faults import Fault

RUSTFLAGS = "-C target-feature=+crt-static"
TARGET = f"{platform.machine()}-unknown-linux-gnu"
"""Named even if it is the host's own: build scripts and macros must not be static."""

_RELEASE = re.compile(r"^release: (\d+)\.(\d+)", re.M)
_ANSWER_S = 60.0
_INSTALL_S = 1800.0
_RUSTUP = "https://rustup.rs"

_Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cargo:
    """A cargo and its compiler, in one directory, both working.

    Attributes:
        about: the compiler's description of itself, all of which affects its output.
        libc: glibc's static library, a part of the programs.
    """

    directory: Path
    version: str
    about: str
    libc: Path

    @property
    def identity(self) -> str:
        """Everything in the toolchain that affects the programs."""
        library = self.libc.stat()
        linked = f"{self.libc} {library.st_size} {library.st_mtime_ns}"
        return "\n".join((self.about, TARGET, RUSTFLAGS, linked))

    def is_oldest(self, sources: Path) -> bool:
        """Whether it is exactly the version that the sources ask for, and not a newer one."""
        match = _RELEASE.search(self.about)
        return match is not None and (int(match[1]), int(match[2])) == _oldest(sources)

    def has(self, command: str) -> bool:
        """Whether cargo has a command that is a separate program, like ``fmt`` and ``clippy``."""
        done = _ask([str(self.directory / "cargo"), command, "--version"])
        return done is not None and done.returncode == 0

    def variables(self, target_directory: Path) -> dict[str, str]:
        """Return the environment of a build."""
        # Without variables that would change the programs.
        changing = ("CARGO_ENCODED_RUSTFLAGS", "CARGO_PROFILE_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(changing)}
        return {
            **inherited,
            # The compiler beside this cargo, whatever is first on the path.
            "PATH": f"{self.directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "RUSTFLAGS": RUSTFLAGS,
            "CARGO_TARGET_DIR": str(target_directory),
            "CARGO_TERM_COLOR": "never",
        }

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of a cargo that builds for `TARGET` what Cargo.lock names."""
        cargo = str(self.directory / "cargo")
        return [cargo, name, "--release", "--locked", "--target", TARGET, *arguments]


def find(sources: Path) -> Cargo:
    """Return the first cargo that is new enough; raises `Fault` with how to install one. Blocks."""
    oldest = _oldest(sources)
    reasons = []
    for directory in dict.fromkeys(_places()):
        cargo, rustc = directory / "cargo", directory / "rustc"
        if not (os.access(cargo, os.X_OK) and os.access(rustc, os.X_OK)):
            continue
        # In the sources, where rust-toolchain.toml decides for rustup.
        done = _ask([str(rustc), "-vV"], cwd=sources)
        match = _RELEASE.search(done.stdout) if done and not done.returncode else None
        if done is None or match is None:
            said = (done.stderr.strip().splitlines() if done else []) or ["it does not answer"]
            reasons.append(f"{rustc} does not work: {said[0]}")
        elif (int(match[1]), int(match[2])) < oldest:
            reasons.append(f"{rustc} is {match[1]}.{match[2]}")
        else:
            return Cargo(directory, done.stdout.splitlines()[0], done.stdout, _static_libc())
    wanted = "{}.{}".format(*oldest)
    raise Fault(
        f"the agent is built by Rust {wanted} or newer: "
        + ("; ".join(reasons) or "cargo and rustc are not installed"),
        _words(oldest),
    )


def find_or_install(sources: Path, told: Callable[[str], None]) -> Cargo:
    """Return the result of `find`; as root on Debian or Ubuntu install what is missing first."""
    try:
        return find(sources)
    except Fault:
        if os.geteuid() or not shutil.which("apt-get"):
            raise
        _apt(["update", "-qq"])
        _install(_oldest(sources), told)
    return find(sources)


def install_command(name: str, told: Callable[[str], None]) -> None:
    """As root on Debian or Ubuntu install the package of ``cargo fmt``; else do nothing."""
    package = {"fmt": "rustfmt-web"}.get(name)
    if package and not os.geteuid() and shutil.which("apt-get") and _candidate(package):
        told(f"installing {package}")
        _apt(["install", "-y", "-qq", "--no-install-recommends", package])


def _oldest(sources: Path) -> _Version:
    manifest = tomllib.loads((sources / "Cargo.toml").read_text())
    major, minor = manifest["workspace"]["package"]["rust-version"].split(".")[:2]
    return int(major), int(minor)


def _places() -> Iterator[Path]:
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if entry:
            yield Path(entry)
    yield Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "bin"
    # Where Ubuntu puts compilers whose version is part of the package's name.
    versions = [
        (minor, path) for path in Path("/usr/lib").glob("rust-*") if (minor := _minor(path.name))
    ]
    yield from (path / "bin" for _, path in sorted(versions, reverse=True))


def _minor(name: str) -> int:
    match = re.fullmatch(r"rust(?:c)?-1\.(\d+)", name)
    return int(match[1]) if match else 0


def _static_libc() -> Path:
    done = _ask(["cc", "-print-file-name=libc.a"])
    path = Path(done.stdout.strip()) if done and not done.returncode else None
    if path is None or not path.is_file():
        what = "a C compiler" if path is None else "glibc's static library"
        packages = "apt-get install gcc libc6-dev, or: dnf install gcc glibc-static"
        raise Fault(f"the agent is linked statically, and {what} is not installed", packages)
    return path.resolve()


# ---- the distribution's packages ------------------------------------------------------------


def _install(oldest: _Version, told: Callable[[str], None]) -> None:
    packages = _packages(oldest)
    if not packages:
        return
    told(f"installing {' '.join(packages)}")
    _apt(["install", "-y", "-qq", "--no-install-recommends", *packages])
    if "rustup" in packages:
        _ask(["rustup", "set", "profile", "minimal"])
        if (
            done := _ask(["rustup", "default", "stable"], timeout_s=_INSTALL_S)
        ) and done.returncode:
            raise Fault(f"rustup installs no compiler: {done.stderr.strip()}", f"see {_RUSTUP}")


def _packages(oldest: _Version) -> list[str]:
    """Return the distribution's packages that contain a new enough compiler, or none."""
    linking = ["gcc", "libc6-dev"]
    # Debian keeps rustc-web new for the browsers; Ubuntu has one package per version.
    listed = _ask(["apt-cache", "search", "--names-only", r"^rustc-1\.[0-9]+$"])
    names = [
        line.split()[0] for line in (listed.stdout.splitlines() if listed else []) if line.strip()
    ]
    versioned = sorted(names, key=_minor, reverse=True)
    for compiler in ("rustc", "rustc-web", *versioned):
        version = re.match(r"(\d+)\.(\d+)", _candidate(compiler))
        if version and (int(version[1]), int(version[2])) >= oldest:
            return [compiler, compiler.replace("rustc", "cargo"), *linking]
    return ["rustup", *linking] if _candidate("rustup") else []


def _candidate(package: str) -> str:
    done = _ask(["apt-cache", "policy", package])
    match = re.search(r"Candidate: (\d\S*)", done.stdout) if done else None
    # Without an epoch, as in 1:1.96.
    return match[1].rpartition(":")[2] if match else ""


def _apt(arguments: list[str]) -> None:
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = _ask(["apt-get", *arguments], timeout_s=_INSTALL_S, variables=variables)
    if done is None or done.returncode:
        said = (done.stderr if done else "").strip().splitlines()
        raise Fault(f"apt-get {' '.join(arguments)} failed: {said[-1] if said else 'no answer'}")


def _words(oldest: _Version) -> str:
    if shutil.which("rustup"):
        return "rustup update stable"
    packages = _packages(oldest) if shutil.which("apt-cache") else []
    if packages and "rustup" not in packages:
        return f"sudo apt-get install {' '.join(packages)}"
    if packages:
        return f"sudo apt-get install {' '.join(packages)} && rustup default stable"
    return f"install Rust, see {_RUSTUP}"


def _ask(
    command: list[str],
    *,
    cwd: Path | None = None,
    timeout_s: float = _ANSWER_S,
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str] | None:
    """Return a program's output; None if there is none or it does not end."""
    try:
        return subprocess.run(
            command, cwd=cwd, env=variables, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
