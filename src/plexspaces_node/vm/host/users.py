"""The users that VMs run as under a node that is root: one per VM, which owns nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from plexspaces_node.vm.bundle import Bundle

FIRST_UID = 0x7000_0000
LAST_UID = 0x7FFF_FFFF
"""Nobody has users of this range: it is above everything that distributions, containers and user
namespaces assign."""


def uid_of(bundle: Bundle) -> int:
    """Return the user and group of a VM: always the same for one bundle.

    Two VMs have the same with a probability of one in 268 million.
    """
    digest = hashlib.sha256(os.fsencode(bundle.path)).digest()
    return FIRST_UID + int.from_bytes(digest[:8], "big") % (LAST_UID - FIRST_UID + 1)


def users_exist() -> bool:
    """Return whether processes can become these users: a container may have only few."""
    maps = (Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid"))
    return all(knows(text, FIRST_UID) and knows(text, LAST_UID) for text in maps)


def knows(text: str, number: int) -> bool:
    """Return whether a user namespace whose map reads `text` has the user `number`; pure."""
    ranges = (map(int, line.split()) for line in text.splitlines())
    return any(first <= number < first + count for first, _, count in ranges)
