"""File descriptors: how many a node may have, who gets them, and the words for when there is none.

A process that has none left accepts no connection, makes no machine and opens no file. So what
others take of them, connections, is bounded, and a reserve is kept for what the node itself does.
"""

from __future__ import annotations

import errno
import resource

from plexspaces_node.errors import ResourceExhausted

MOST_DESCRIPTORS = 1 << 20
"""The kernel's own bound, unless somebody raised it: a hard limit may be none at all."""

OWN = 128
"""Of the node itself: its files, its database, uploads and compilations at work."""

PER_MACHINE = 6
"""A machine takes four, its socket, its link, its process and, while it starts, its console; its
application up to two, for its log and whoever follows that."""

MOST_CONNECTIONS = 10_000

_LEAST_CONNECTIONS = 16


def most_allowed() -> int:
    """Return what the soft limit can be raised to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)


def raise_limit() -> None:
    """Raise the soft limit as far as it goes.

    It is for programs that wait with select(2), which a node does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_allowed()
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def in_force() -> int:
    """Return how many this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def reserve(machines: int) -> int:
    """Return how many a node with so many machines needs for itself."""
    return OWN + PER_MACHINE * machines


def for_connections(descriptors: int, machines: int) -> int:
    """Return how many of a process's descriptors connections of clients may take together.

    What is left when every machine has its own, but at least a quarter.
    """
    left = max(descriptors - reserve(machines), descriptors // 4, _LEAST_CONNECTIONS)
    return min(left, MOST_CONNECTIONS)


def are_what_lacked(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, is that there was no descriptor left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.EMFILE, errno.ENFILE):
            return True
        seen = seen.__cause__
    return False


def none_left() -> ResourceExhausted:
    """Return the error that says so."""
    return ResourceExhausted(
        f"the node has used all of its {in_force()} file descriptors",
        hint="raise LimitNOFILE= of its service, or ulimit -n; see plexspaces doctor",
    )
