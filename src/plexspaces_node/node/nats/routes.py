"""Where the other servers of a cluster are: remembered in a file, for a start without any of them.

{"routes": ["10.0.0.2:9400", "10.0.0.3:9400"]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.nats.server_files import joined, split
from plexspaces_node.private_file import make_private_directory, read_private, replace

MOST = 64
"""How many are kept: a server learns of the others from any of them."""


def checked(found: Iterable[str], *, but: str = "") -> tuple[str, ...]:
    """Return the addresses in what others have told, in order, without what is none and `but`."""
    known: set[str] = set()
    for each in found:
        with suppress(InvalidArgument):
            known.add(joined(*split(each)))
    return tuple(sorted(known - {but})[:MOST])


def read(path: Path) -> tuple[str, ...]:
    """Return the addresses in a file; none without it, and what cannot be read of it is left out.

    Raises `InvalidArgument` if others may read or write it.
    """
    if not path.exists():
        return ()
    try:
        found = json.loads(read_private(path, what="the routes of the cluster"))["routes"]
    except (ValueError, KeyError, TypeError):
        return ()
    return (
        checked(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()
    )


def write(path: Path, known: Iterable[str]) -> None:
    """Write them, in place of those that were there. Raises `InvalidArgument` if it cannot."""
    make_private_directory(path.parent)
    replace(path, json.dumps({"routes": list(known)}).encode())
