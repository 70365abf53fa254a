"""What restricts an agent that runs as a process of the host: its environment and command line.

The agent restricts itself: limits, its own user and rules for files at its start, and a system call
filter before an application's code runs (`agent/src/sandbox`). This module makes the arguments for
that, and describes what this host supports. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.users import uid_of

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
"""An agent's whole environment: that of the node is not passed on."""

SECCOMP, LANDLOCK = "seccomp", "Landlock"
"""The agent's names for walls that can be missing."""

OWN_USER = "user of its own"
"""The missing wall if the node is root but cannot become another user."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What restricts the agents on this host.

    Attributes:
        own_user: each VM has its own user.
        missing: what this host does not support, in the agent's words, or `OWN_USER`.
    """

    own_user: bool
    missing: tuple[str, ...] = ()

    @property
    def filtered(self) -> bool:
        """Whether a system call filter prevents an agent from starting other processes."""
        return SECCOMP not in self.missing

    def __str__(self) -> str:
        """Describe briefly what restricts an agent, and what is missing."""
        there = [wall for wall in (SECCOMP, LANDLOCK) if wall not in self.missing]
        behind = f"behind {' and '.join(there)}, " if there else ""
        user = "as a user of its own" if self.own_user else "as the user of the node"
        lack = f"; this host has no {', no '.join(self.missing)}" if self.missing else ""
        return f"{behind}{user}{lack}"


def agent_command(
    agent: Sequence[str], bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool
) -> list[str]:
    """Return the command line that runs `agent` for a VM; pure.

    The process dies with the thread of the process `node_pid` that starts it.
    """
    return [
        *agent,
        *("--vm-id", bundle.vm_id, "--link", str(bundle.link_socket)),
        *held(bundle, memory_mib=memory_mib, node_pid=node_pid, own_user=own_user),
    ]


def probe_command(
    agent: Sequence[str], bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool
) -> list[str]:
    """Return the command line that makes `agent` apply its restrictions and report; pure."""
    held_by = held(bundle, memory_mib=memory_mib, node_pid=node_pid, own_user=own_user)
    return [*agent, "--probe", *held_by]


def held(bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool) -> list[str]:
    """Return the arguments for an agent's restrictions; pure."""
    argv = ["--node-pid", str(node_pid), "--memory-mib", str(memory_mib)]
    return [*argv, "--uid", str(uid_of(bundle))] if own_user else argv
