"""File descriptors: how many a node may have, what for, and the error if none is left.

A process without free descriptors accepts no connection, starts no VM and opens no file. So the
number of connections is limited, and a reserve is kept for the node's own work.
"""

from __future__ import annotations

import errno
import resource

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.outgoing.idle import MOST_IDLE
from plexspaces_node.node.outgoing.outgoing import MOST_CALLS

MOST_DESCRIPTORS = 1 << 20
"""The kernel's own limit by default: a hard limit may be unlimited."""

OWN = 128
"""For the node itself: its files, its database, active uploads and compilations."""

OUTGOING = MOST_CALLS + MOST_IDLE
"""For HTTP requests of applications."""

PER_MACHINE = 6
"""A VM takes four: its socket, its link, its process and, while it starts, its console. Its
application takes up to two, for its log and whoever follows that."""

MOST_CONNECTIONS = 10_000

_LEAST_CONNECTIONS = 16


def most_allowed() -> int:
    """Return what the soft limit can be raised to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)


def raise_limit() -> None:
    """Raise the soft limit as far as possible.

    It exists for programs that wait with select(2), which a node does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_allowed()
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def in_force() -> int:
    """Return how many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def reserve(machines: int) -> int:
    """Return how many a node with this many VMs needs for itself."""
    return OWN + OUTGOING + PER_MACHINE * machines


def for_connections(descriptors: int, machines: int, *, ports: int = 1) -> int:
    """Return how many of a process's descriptors the client connections of each port can use.

    What is left when every VM has its own, but at least a quarter.
    """
    left = max(descriptors - reserve(machines), descriptors // 4, _LEAST_CONNECTIONS)
    return min(left // ports, MOST_CONNECTIONS)


def are_what_lacked(error: BaseException) -> bool:
    """Return whether an error, or its cause, is that no descriptor was left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.EMFILE, errno.ENFILE):
            return True
        seen = seen.__cause__
    return False


def none_left() -> ResourceExhausted:
    """Return the error for it."""
    return ResourceExhausted(
        f"the node has used all of its {in_force()} file descriptors",
        hint="raise LimitNOFILE= of its service, or ulimit -n; see plexspaces doctor",
    )
