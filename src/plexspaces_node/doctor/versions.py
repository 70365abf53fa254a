"""Which programs run VMs here, and which holes their versions are known to have."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding, one_line
from plexspaces_node.doctor.private_files import changed_by_its_owner
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import ENGINE
from plexspaces_node.vm.firecracker.host import INSTALL_HINT, release_of, version_of

AREA = "Programs"

_QEMU = "qemu-system-x86_64"
_TIMEOUT_S = 20.0

HOLES: tuple[tuple[str, str, Callable[[tuple[int, ...]], bool]], ...] = (
    (
        "CVE-2026-1386",
        "the jailer follows symbolic links",
        lambda version: version <= (1, 13, 1) or version == (1, 14, 0),
    ),
    (
        "CVE-2026-5747",
        "out of bounds in virtio-pci, which a node never enables",
        lambda version: (1, 13, 0) <= version <= (1, 14, 3) or version == (1, 15, 0),
    ),
)
"""Name, meaning, and whether a version of Firecracker has the hole."""


def check_versions(config: Config) -> list[Finding]:
    """Check the programs that run VMs. Runs them for their versions: some 10 ms; never raises."""
    return [
        *_firecracker(config),
        *_qemu(),
        Finding(AREA, "runtime", True, f"{ENGINE}, a long-term release: docs/security-releases.md"),
    ]


def holes_of(version: str) -> list[str]:
    """Return the known holes of a version of Firecracker; pure."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    return [f"{name} ({meaning})" for name, meaning, has in HOLES if has(numbers)]


def _firecracker(config: Config) -> Iterator[Finding]:
    named = config.firecracker.binary_path
    found = shutil.which(str(named or "firecracker"))
    if found is None:
        needed = config.node.isolation == "firecracker"
        ok = False if needed else None
        yield Finding(AREA, "firecracker", ok, "not installed", INSTALL_HINT)
        return
    program = Path(found).absolute()
    yield _release("firecracker", program)
    yield changed_by_its_owner(AREA, "its file", program)
    beside = program.resolve().parent / "jailer"
    jailer = shutil.which(str(beside)) or shutil.which("jailer")
    if jailer is None:
        detail = "not installed: a node that is root does not use Firecracker without it"
        yield Finding(AREA, "jailer", None, detail, INSTALL_HINT)
        return
    yield _release("jailer", Path(jailer))
    yield changed_by_its_owner(AREA, "its file", Path(jailer))


def _release(name: str, program: Path) -> Finding:
    try:
        version = version_of(program)
        holes = holes_of(version)
        if holes:
            return Finding(AREA, name, False, f"{version} has {'; '.join(holes)}", INSTALL_HINT)
        release_of(version)
    except Unsupported as error:
        return Finding(AREA, name, False, error.message, error.hint)
    return Finding(AREA, name, True, f"{version} at {program}: a maintained release")


def _qemu() -> Iterator[Finding]:
    found = shutil.which(_QEMU)
    if found is None:
        yield Finding(AREA, "QEMU", None, "not installed", "apt-get install qemu-system-x86")
        return
    try:
        done = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        said = one_line(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        said = f"does not run: {error}"
    hint = "its fixes come from the distribution: apt-get install --only-upgrade qemu-system-x86"
    yield Finding(AREA, "QEMU", True, said, hint)
    yield changed_by_its_owner(AREA, "its file", Path(found))
