"""What this host offers to run QEMU with: its programs, its namespaces, its KVM, a user of its own.

Looks and tries; keeps nothing. What it finds becomes `qemu_command.Walls`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

from plexspaces_node.errors import Unavailable, Unsupported
from plexspaces_node.vm.qemu_command import ENVIRONMENT, Walls

KVM = Path("/dev/kvm")

FIRST_UID = 0x7000_0000
LAST_UID = 0x7FFF_FFFF
"""Users of this range belong to nobody: systemd's list of them leaves it unused."""

_TRY_TIMEOUT_S = 10.0
_NAMESPACES = ("--net", "--ipc", "--uts")


def find_qemu() -> str:
    """Return the path of QEMU for this machine; raises `Unsupported` with what to install."""
    if platform.machine() != "x86_64":
        raise Unsupported(
            f"QEMU machines are not made on {platform.machine()} yet, only on x86_64",
            hint="plexspaces start-node --node-id my-node --isolation process",
        )
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise Unsupported(
            "qemu-system-x86_64 is not installed", hint="apt-get install qemu-system-x86"
        )
    return found


def find_walls() -> Walls:
    """Find what holds a QEMU process here, trying the namespaces; blocks for some milliseconds.

    Raises `Unsupported` when util-linux or coreutils is missing.
    """
    setpriv, prlimit, env = (shutil.which(name) for name in ("setpriv", "prlimit", "env"))
    if setpriv is None or prlimit is None or env is None:
        raise Unsupported(
            "setpriv, prlimit or env is not installed", hint="apt-get install util-linux coreutils"
        )
    root = os.geteuid() == 0
    return Walls(
        prlimit,
        setpriv,
        env,
        unshare=_unshare(root),
        drop_capabilities=root,
        own_user=root and _users_exist(),
    )


def walls_of(walls: Walls, bundle: Path, *, kvm: bool) -> Walls:
    """Return the walls of one machine: its own user where machines have one."""
    if not walls.own_user:
        return walls
    uid = uid_of(bundle)
    return replace(walls, uid=uid, gid=KVM.stat().st_gid if kvm else uid)


def uid_of(bundle: Path) -> int:
    """Return the user a machine runs as under root: one that no other machine is likely to have."""
    number = int.from_bytes(hashlib.sha256(os.fsencode(bundle)).digest()[:8], "big")
    return FIRST_UID + number % (LAST_UID - FIRST_UID + 1)


def check_kvm(device: Path = KVM) -> None:
    """Raise `Unavailable` with what helps unless a machine of ours may use `device`.

    Looks at permissions only; whether a guest boots is found by booting one.
    """
    try:
        status = device.stat()
    except OSError as error:
        raise Unavailable(
            f"there is no {device}",
            hint="switch virtualisation on in the firmware, or load its module: modprobe kvm",
        ) from error
    if not stat.S_ISCHR(status.st_mode):
        raise Unavailable(f"{device} is not a device", hint=f"rm {device}, then: modprobe kvm")
    if os.geteuid() != 0:
        if not os.access(device, os.R_OK | os.W_OK):
            raise Unavailable(
                f"{device} may not be opened by this user",
                hint="sudo usermod -aG kvm $USER, then log in again",
            )
    elif status.st_mode & 0o060 != 0o060:
        # Under root a machine runs as a user that has nothing but the device's group.
        raise Unavailable(
            f"{device} has no group that may open it",
            hint=f"chgrp kvm {device} && chmod 660 {device}",
        )


def _unshare(root: bool) -> tuple[str, ...]:
    found = shutil.which("unshare")
    if found is None:
        return ()
    # Only root may leave the namespaces of the host without a user namespace.
    user = () if root else ("--user", "--map-current-user")
    command = (found, *user, *_NAMESPACES, "--")
    return command if _works(*command, "true") else ()


def _works(*command: str) -> bool:
    try:
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, timeout=_TRY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _users_exist() -> bool:
    # In the user namespace of a container there may be only a few.
    maps = (Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid"))
    return all(_maps(text, FIRST_UID) and _maps(text, LAST_UID) for text in maps)


def _maps(text: str, number: int) -> bool:
    ranges = (map(int, line.split()) for line in text.splitlines())
    return any(first <= number < first + count for first, _, count in ranges)
