"""The agent without a node: what is left when nothing coordinates."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from support.peer import Peer

from plexspaces_node.link import frames as link


@contextmanager
def bare_agent() -> Iterator[Peer]:
    """Start an agent that is a process; it has said hello."""
    with TemporaryDirectory(prefix="px-") as directory, Peer(Path(directory)) as peer:
        yield peer


def loaded(peer: Peer, code: Path, *, memory_bytes: int) -> link.Loaded:
    """Have an agent load a compiled actor; return what it says of it."""
    answer = peer.load(code, memory_bytes=memory_bytes, mailbox=1024)
    assert isinstance(answer, link.Loaded), answer
    return answer
