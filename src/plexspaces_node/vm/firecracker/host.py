"""What this host has for running Firecracker: the programs, their release, users, cgroups.

Looks and tries without keeping state. Defines which releases are supported.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from plexspaces_node.errors import Unsupported
from plexspaces_node.vm.firecracker.jailer import ENVIRONMENT, Cgroups, Programs, find_cgroups
from plexspaces_node.vm.host.users import FIRST_UID, LAST_UID, users_exist

Release: TypeAlias = tuple[int, int]
"""Major and minor number."""

OLDEST_RELEASE: Release = (1, 15)
NEWEST_RELEASE: Release = (1, 16)
"""The newest release that this product was tested with; later ones are used too."""

DOWNLOADS = "https://github.com/firecracker-microvm/firecracker/releases"
_VERSION = "v1.16.1"
"""What the hint names, of `NEWEST_RELEASE`."""
_ARCHIVE = f"firecracker-{_VERSION}-x86_64.tgz"
_URL = f"{DOWNLOADS}/download/{_VERSION}/{_ARCHIVE}"
INSTALL_HINT = (
    f"curl -fLO {_URL} -O {_URL}.sha256.txt && sha256sum -c {_ARCHIVE}.sha256.txt && "
    f"tar -xzf {_ARCHIVE}, then put its firecracker and jailer on PATH under these names"
)

_JAILER_HINT = "install `jailer` from the release that `firecracker` is of"
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Installation:
    """The user's settings for Firecracker.

    Attributes:
        firecracker: name or path of the program.
        jailer: name or path of its jailer, used when the node is root; None to do without.
        seccomp: leave Firecracker's system call filters on.
    """

    firecracker: str = "firecracker"
    jailer: str | None = "jailer"
    seccomp: bool = True


@dataclass(frozen=True, slots=True)
class FirecrackerHost:
    """What was found.

    Attributes:
        version: Firecracker's version, for example `1.16.1`.
        cgroups: where jailed VMs are put; None if that is not possible.
        note: one line about what could be better, or "".
    """

    programs: Programs
    version: str
    cgroups: Cgroups | None
    note: str = ""


def find_host(installation: Installation) -> FirecrackerHost:
    """Find the programs and try to run them; blocks for some milliseconds.

    Raises `Unsupported` with what to install.
    """
    if platform.machine() != "x86_64":
        raise Unsupported(
            f"Firecracker VMs are not supported on {platform.machine()} yet, only on x86_64",
            hint="plexspaces start-node --node-id my-node --isolation process",
        )
    supported = f"supported are {_text(OLDEST_RELEASE)} to {_text(NEWEST_RELEASE)}"
    found = _which(installation.firecracker, INSTALL_HINT, note=f"; {supported}")
    version = version_of(found)
    note = _release_note(version)
    jailer = None
    if os.geteuid() == 0 and installation.jailer is not None:
        jailer = _jailer(found, installation.jailer, version)
    setpriv, prlimit = (
        str(_which(name, "apt-get install util-linux")) for name in ("setpriv", "prlimit")
    )
    programs = Programs(found, jailer, setpriv, prlimit, seccomp=installation.seccomp)
    cgroups = find_cgroups(Path("/proc/self/mounts").read_text()) if jailer else None
    return FirecrackerHost(programs, version, cgroups, note)


def release_of(version: str) -> Release:
    """Return the release that a version such as `1.16.1` belongs to; raises `Unsupported`."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise Unsupported(f"{version!r} is not a version of Firecracker", hint=INSTALL_HINT)
    release = int(match[1]), int(match[2])
    if release < OLDEST_RELEASE:
        raise Unsupported(
            f"Firecracker {version} is older than {_text(OLDEST_RELEASE)}, "
            "the oldest release still maintained",
            hint=INSTALL_HINT,
        )
    return release


def _release_note(version: str) -> str:
    newer = release_of(version) > NEWEST_RELEASE
    return f"Firecracker {version} is newer than any version tested with this node" if newer else ""


def _text(release: Release) -> str:
    return ".".join(map(str, release))


def _which(name: str, hint: str, *, note: str = "") -> Path:
    found = shutil.which(name)
    if found is None:
        raise Unsupported(f"{name} is not installed{note}", hint=hint)
    return Path(found).absolute()


def version_of(program: Path) -> str:
    """Run Firecracker or its jailer for its version, for example `1.16.1`; blocks for milliseconds.

    Raises `Unsupported` if it does not run.
    """
    try:
        done = subprocess.run(
            [program, "--version"], env=ENVIRONMENT, capture_output=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unsupported(f"{program} does not run: {error}", hint=INSTALL_HINT) from error
    match = re.search(rb"^\w+ v(\d+\.\d+\.\S+)", done.stdout)
    if match is None:
        said = done.stdout[:80].decode("utf-8", "replace")
        raise Unsupported(f"{program} --version says {said!r}", hint=INSTALL_HINT)
    return match[1].decode("ascii", "replace")


def _jailer(firecracker: Path, name: str, version: str) -> Path:
    """Find the jailer: beside Firecracker, or else on `PATH`."""
    beside = firecracker.resolve().parent / name
    found = beside if os.access(beside, os.X_OK) else _which(name, _JAILER_HINT)
    if version_of(found) != version:
        raise Unsupported(
            f"{found} has version {version_of(found)}, {firecracker} has {version}",
            hint="install both from the same release",
        )
    if not users_exist():
        raise Unsupported(
            f"this container has no users {FIRST_UID} to {LAST_UID}, which VMs run as",
            hint="run the node outside a user namespace, or not as root",
        )
    return found
