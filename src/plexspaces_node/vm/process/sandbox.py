"""What holds an agent that runs as a process of the host: its environment, its command line.

The agent holds itself: it takes limits, a user of its own and rules for files at its start, and a
filter of system calls before an application's code runs (`agent/src/sandbox`). This file owns what
it is told for that, and how what this host has of it reads. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.users import uid_of

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
"""All of an agent's environment: what the node was started with is none of its business."""

SECCOMP, LANDLOCK = "seccomp", "Landlock"
"""The walls that the agent's probe names when they are missing, as it names them."""

OWN_USER = "user of its own"
"""What is missing where the node is root and cannot become another user all the same."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What holds the agents here.

    Attributes:
        own_user: each machine is a user of its own.
        missing: what this host does not have, as the agent names it, or `OWN_USER`.
    """

    own_user: bool
    missing: tuple[str, ...] = ()

    @property
    def filtered(self) -> bool:
        """Whether a filter of system calls keeps an agent from starting other processes."""
        return SECCOMP not in self.missing

    def __str__(self) -> str:
        """Say in a few words what holds an agent, and what does not."""
        there = [wall for wall in (SECCOMP, LANDLOCK) if wall not in self.missing]
        behind = f"behind {' and '.join(there)}, " if there else ""
        user = "as a user of its own" if self.own_user else "as the user of the node"
        lack = f"; this host has no {', no '.join(self.missing)}" if self.missing else ""
        return f"{behind}{user}{lack}"


def agent_command(
    agent: Sequence[str], bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool
) -> list[str]:
    """Return the argument vector that runs `agent` as a machine's; pure.

    The process dies with the thread that starts it, of the process `node_pid`.
    """
    return [
        *agent,
        *("--vm-id", bundle.vm_id, "--link", str(bundle.link_socket)),
        *held(bundle, memory_mib=memory_mib, node_pid=node_pid, own_user=own_user),
    ]


def probe_command(
    agent: Sequence[str], bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool
) -> list[str]:
    """Return the argument vector that has `agent` raise a machine's walls, and tell; pure."""
    held_by = held(bundle, memory_mib=memory_mib, node_pid=node_pid, own_user=own_user)
    return [*agent, "--probe", *held_by]


def held(bundle: Bundle, *, memory_mib: int, node_pid: int, own_user: bool) -> list[str]:
    """Return the arguments that say what is to hold an agent; pure."""
    argv = ["--node-pid", str(node_pid), "--memory-mib", str(memory_mib)]
    return [*argv, "--uid", str(uid_of(bundle))] if own_user else argv
