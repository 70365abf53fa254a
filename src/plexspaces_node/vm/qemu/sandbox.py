"""What this host has for running QEMU: its programs, namespaces, KVM, and a user per VM.

Looks and tries without keeping state. The result is a `command.Walls`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from plexspaces_node.errors import Unavailable, Unsupported
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.kvm import KVM, open_kvm
from plexspaces_node.vm.host.users import uid_of, users_exist
from plexspaces_node.vm.qemu.command import ENVIRONMENT, Walls

_TRY_TIMEOUT_S = 10.0
_NAMESPACES = ("--net", "--ipc", "--uts")


def find_qemu() -> str:
    """Return the path of QEMU for this architecture; raises `Unsupported` with what to install."""
    if platform.machine() != "x86_64":
        raise Unsupported(
            f"QEMU VMs are not supported on {platform.machine()} yet, only on x86_64",
            hint="plexspaces start-node --node-id my-node --isolation process",
        )
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise Unsupported(
            "qemu-system-x86_64 is not installed", hint="apt-get install qemu-system-x86"
        )
    return found


def find_walls() -> Walls:
    """Find what restricts a QEMU process here, trying the namespaces; blocks for some milliseconds.

    Raises `Unsupported` if util-linux or coreutils is missing.
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
        own_user=root and users_exist(),
    )


def walls_of(walls: Walls, bundle: Bundle, *, kvm: bool) -> Walls:
    """Return the walls of one VM: its own user if VMs have one."""
    if not walls.own_user:
        return walls
    uid = uid_of(bundle)
    return replace(walls, uid=uid, gid=KVM.stat().st_gid if kvm else uid)


def check_kvm(device: Path = KVM, *, own_user: bool) -> None:
    """Raise `Unavailable`, with what helps, unless a VM of ours can use `device`.

    Creates an empty virtual machine; whether a guest boots is found by booting one. With `own_user`
    a VM runs as a user whose only group is the device's.
    """
    open_kvm(device)
    if own_user:
        check_group_may_open(device)


def check_group_may_open(device: Path) -> None:
    """Raise `Unavailable` with what helps unless members of a device's group may use it."""
    if device.stat().st_mode & 0o060 != 0o060:
        raise Unavailable(
            f"no group has access to {device}",
            hint=f"chgrp kvm {device} && chmod 660 {device}",
        )


def _unshare(root: bool) -> tuple[str, ...]:
    found = shutil.which("unshare")
    if found is None:
        return ()
    # Only root can leave the namespaces of the host without a user namespace.
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
