"""The text of a node's systemd unit; pure functions.

A unit is for one of two users. A system user of its own has no privilege at all, and its VMs run as
itself. Root, which a set of capabilities confines, can give each VM a user of its own, and
Firecracker its jailer. docs/service.md says what each line is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.settings import SECRETS_CREDENTIAL

NAME = "plexspaces.service"
USER = "plexspaces"
STATE = Path("/var/lib/plexspaces")
"""The home directory of a service; a node's data directory is in it by default."""

STOP_MARGIN_S = 20.0
"""What a shutdown may need beyond the grace time: to save states, to end VMs and calls."""
START_LIMIT_S = 300
"""For the trial VM of an emulated level on a slow host, and leftovers of a crash."""
WATCHDOG_S = 60
"""An event loop that does nothing for so long hangs."""

_STATES = Path("/var/lib")
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_PRIVATE = (Path("/tmp"), Path("/var/tmp"))
"""Directories that a service has for itself alone."""
_LEAST_DESCRIPTORS = 65_536
# Without quotes, and without what systemd replaces in a command or in a path.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@,=+~-]+")
_HARMFUL = ("io_uring_enter", "io_uring_register", "io_uring_setup", "userfaultfd")
"""System calls that nothing here makes, and in which kernels had many holes."""
_CONFINING = ("landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp")
_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
)
"""What root needs to give each VM a user, and Firecracker its jail."""


@dataclass(frozen=True, slots=True)
class Service:
    """What differs between the units of two hosts.

    Attributes:
        command: the program and its arguments, the first absolute.
        user: whom it runs as; `root` for a user per VM and the jailer.
        data_dir: absolute path.
        groups: further groups of the user, such as `kvm`.
        stop_s: how long a shutdown may take.
        descriptors: how many file descriptors the node can use.
        low_port: whether it listens on a port below 1024.
        reads_homes: whether its program or its configuration is in a home directory.
    """

    command: tuple[str, ...]
    user: str
    data_dir: Path
    groups: tuple[str, ...] = ()
    stop_s: float = 10.0 + STOP_MARGIN_S
    descriptors: int = _LEAST_DESCRIPTORS
    low_port: bool = False
    reads_homes: bool = False


def stop_limit_s(grace_s: float) -> float:
    """Return how long a shutdown may take whose messages have so much time to finish."""
    return grace_s + STOP_MARGIN_S


def in_a_home(path: Path) -> bool:
    """Return whether a path is where `ProtectHome=` hides it."""
    return any(path.is_relative_to(home) for home in _HOMES)


def check(service: Service) -> None:
    """Raise `InvalidArgument` for what a unit cannot express, or its service could not reach."""
    for word in (*service.command, str(service.data_dir), service.user):
        if not _PLAIN.fullmatch(word):
            raise InvalidArgument(
                f"{word!r} cannot be written into a unit",
                hint="use letters, digits and _ . / : @ , = + ~ - only",
            )
    if any(service.data_dir.is_relative_to(place) for place in _PRIVATE):
        raise InvalidArgument(
            f"{service.data_dir} cannot be seen by a service, which has its own /tmp",
            hint="choose another: plexspaces install-service --data-dir DIR",
        )


def unit(service: Service) -> str:
    """Return the text of the unit; raises as `check` does."""
    check(service)
    sections = [
        "# Written by `plexspaces install-service`. What each line is for: docs/service.md",
        *_section("Unit", _order()),
        *_section("Service", [*_process(service), *_places(service), *_confines(service)]),
        *_section("Install", ["WantedBy=multi-user.target"]),
    ]
    return "\n".join(sections) + "\n"


def _section(name: str, lines: Sequence[str]) -> list[str]:
    return ["", f"[{name}]", *lines]


def _order() -> list[str]:
    return [
        "Description=PlexSpaces node",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5",
    ]


def _process(service: Service) -> list[str]:
    return [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(service.command)}",
        f"User={service.user}",
        *([f"SupplementaryGroups={' '.join(service.groups)}"] if service.groups else []),
        "# Status 2: the configuration is wrong, and the next start would end the same.",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartPreventExitStatus=2",
        "SuccessExitStatus=143",
        f"TimeoutStartSec={START_LIMIT_S}",
        f"WatchdogSec={WATCHDOG_S}",
        "# A stop tells the node alone, which lets messages finish and ends its VMs.",
        "KillMode=mixed",
        f"TimeoutStopSec={math.ceil(service.stop_s)}",
        "# A VM that the kernel kills for its memory does not end the node.",
        "OOMPolicy=continue",
        "Delegate=yes",
        f"LimitNOFILE={max(service.descriptors, _LEAST_DESCRIPTORS)}",
        "# A core file would hold secrets and what applications keep in memory.",
        "LimitCORE=0",
    ]


def _places(service: Service) -> list[str]:
    states = [STATE.relative_to(_STATES)]
    written = []
    if not service.data_dir.is_relative_to(_STATES):
        written = [f"ReadWritePaths={service.data_dir}"]
    elif service.data_dir != STATE:
        states.append(service.data_dir.relative_to(_STATES))
    return [
        "WorkingDirectory=/",
        f"Environment=HOME={STATE}",
        f"StateDirectory={' '.join(map(str, states))}",
        "StateDirectoryMode=0700",
        *written,
        "UMask=0077",
        "# The key of secrets, if /etc/credstore has one.",
        f"LoadCredential={SECRETS_CREDENTIAL}",
    ]


def _confines(service: Service) -> list[str]:
    root = service.user == "root"
    return [
        "NoNewPrivileges=yes",
        *(_as_root(service) if root else _as_user(service)),
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if service.reads_homes else 'yes'}",
        "PrivateTmp=yes",
        "PrivateMounts=yes",
        "DevicePolicy=closed",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "SystemCallArchitectures=native",
        "SystemCallErrorNumber=EPERM",
        "# Not set, because the node could not work: ProtectControlGroups (a VM has a group),",
        "# MemoryDenyWriteExecute (native code, QEMU), PrivateDevices (/dev/kvm),",
        "# ProcSubset (the host's memory), ProtectProc (an agent lets nobody look into it),",
        "# NoExecPaths (native code is mapped from files).",
    ]


def _as_user(service: Service) -> list[str]:
    bind = "CAP_NET_BIND_SERVICE"
    if service.low_port:
        privileges = [f"CapabilityBoundingSet={bind}", f"AmbientCapabilities={bind}"]
    else:
        # In a user namespace of its own a capability for a port would not count.
        privileges = ["CapabilityBoundingSet=", "AmbientCapabilities=", "PrivateUsers=yes"]
    return [
        *privileges,
        "RemoveIPC=yes",
        "DeviceAllow=/dev/kvm rw",
        "# For QEMU, which leaves the host's network before it starts.",
        "RestrictNamespaces=user net ipc uts",
        f"SystemCallFilter=@system-service {' '.join(_CONFINING)}",
        f"SystemCallFilter=~@privileged {' '.join(_HARMFUL)}",
        "# By which an agent gives up capabilities, those that it has not too.",
        "SystemCallFilter=capset",
    ]


def _as_root(service: Service) -> list[str]:
    bind = ["CAP_NET_BIND_SERVICE"] if service.low_port else []
    return [
        "# For a user per VM, and for the jailer's mounts, device files and namespaces.",
        f"CapabilityBoundingSet={' '.join([*_CAPABILITIES, *bind])}",
        "DeviceAllow=/dev/kvm rwm",
        "DeviceAllow=/dev/net/tun rwm",
        "DeviceAllow=/dev/userfaultfd rwm",
        "RestrictNamespaces=mnt pid net ipc uts",
        f"SystemCallFilter=@system-service @mount {' '.join(_CONFINING)}",
        f"SystemCallFilter=~{' '.join(_HARMFUL)}",
    ]
