"""The agent as a real process with little memory: states, messages at once, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.peer import ACTOR, Peer, Replied

from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB

GIVEN_UP_STATUS = 4
"""Of an agent whose actor cannot be made anew beside it."""

Machines = Callable[[int], Peer]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machines]:
    """Start an agent that is held to the memory of a machine."""
    with ExitStack() as ends:
        yield lambda memory_mib: ends.enter_context(Peer(tmp_path, memory_mib=memory_mib))


def sized(peer: Peer, mib: int) -> Replied:
    """Have the probe's state become so long."""
    return peer.invoke("b", (mib * MIB).to_bytes(4, "little"), timeout_s=peer.seconds(60))


def counted(peer: Peer) -> int:
    return int.from_bytes(peer.invoke("c", timeout_s=peer.seconds(60)).payload, "little")


def test_state_of_nearly_all_the_memory_is_handed_over_again_and_again(
    machine: Machines, probe_code: Path
) -> None:
    """It is in memory twice for a moment, and never more often."""
    peer = machine(256)
    loaded = peer.load(probe_code, memory_bytes=208 * MIB, snapshot_interval_ns=1)
    assert isinstance(loaded, link.Loaded)
    for mib in (187, 180, 187):
        peer.forget()
        assert sized(peer, mib).failure is None
        assert len(peer.saved()) == mib * MIB
    assert counted(peer) == 4


def test_state_as_long_as_the_memory_is_found_again(machine: Machines, probe_code: Path) -> None:
    """What comes takes as much memory as it is long, and no more."""
    peer = machine(256)
    state = bytes([7, 0, 0, 0]) * (46 * MIB)
    peer.load(probe_code, state=state, memory_bytes=208 * MIB, snapshot_interval_ns=1)
    assert counted(peer) == 8
    peer.stop()


def test_long_state_is_not_held_and_after_a_trap_the_machine_ends(
    machine: Machines, probe_code: Path
) -> None:
    """The node has it, and makes the next machine: the sender has heard of the trap before."""
    peer = machine(256)
    peer.load(probe_code, memory_bytes=208 * MIB)
    assert sized(peer, 100).failure is None
    assert len(peer.saved()) == 100 * MIB
    failure = peer.invoke("t").failure
    assert failure is not None
    assert failure.code == "unreachable"
    assert peer.process.wait(peer.seconds(10)) == GIVEN_UP_STATUS


def test_message_that_makes_a_state_for_which_there_is_no_memory_says_so(
    machine: Machines, probe_code: Path
) -> None:
    """The actor runs on from its last snapshot, in the same machine."""
    peer = machine(512)
    peer.load(probe_code, memory_bytes=464 * MIB, snapshot_interval_ns=1)
    assert counted(peer) == 1
    failure = sized(peer, 400).failure
    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, "state-not-saved")
    assert "more data to the host than the VM has memory for" in failure.message
    assert "--memory" in failure.hint
    assert counted(peer) == 2


def test_state_that_could_not_be_saved_again_is_refused_at_the_load(
    machine: Machines, probe_code: Path
) -> None:
    """In words, and not by the end of the machine with the first message."""
    peer = machine(256)
    state = bytes(250 * MIB)
    answer = peer.load(probe_code, state=state, memory_bytes=400 * MIB)
    assert isinstance(answer, link.Failed)
    assert answer.failure.code == "too-little-memory"
    assert "its state of 250 MiB could not be saved in this VM" in answer.failure.message
    assert "--memory" in answer.failure.hint


def test_state_for_which_there_is_no_memory_is_refused_at_the_load(
    machine: Machines, probe_code: Path
) -> None:
    """As what it is, and not as one of which parts are missing."""
    peer = machine(1)
    answer = peer.load(probe_code, state=bytes(300 * MIB), memory_bytes=400 * MIB)
    assert isinstance(answer, link.Failed)
    assert answer.failure.code == "resource_exhausted"
    assert "enough memory for a state" in answer.failure.message
    assert isinstance(peer.load(probe_code), link.Loaded)


def test_growth_that_the_machine_refuses_is_told_as_want_of_memory(
    machine: Machines, probe_code: Path
) -> None:
    """Also where the actor has not all that it may have."""
    peer = machine(1)
    peer.load(probe_code, memory_bytes=976 * MIB)
    failure = peer.invoke("m").failure
    assert failure is not None
    assert "the program ran out of its 976 MiB of memory" in failure.message
    assert "--memory" in failure.hint


def test_messages_that_are_handled_at_once_share_the_memory(
    machine: Machines, talker_code: Path
) -> None:
    """One that takes it all leaves none to the next, which says so; the machine lives on."""
    peer = machine(64)
    peer.load(talker_code, kind="command", memory_bytes=200 * MIB, concurrency=3)
    hoarder = peer.post("x", b"g\x02")
    peer.receive(link.Log)
    failure = peer.invoke("x", b"ohello").failure
    assert failure is not None
    assert failure.code == "too-little-memory"
    assert "MiB of memory, but share 200 MiB" in failure.message
    reply = peer.reply()
    assert (reply.id, reply.failure) == (hoarder, None)
    assert peer.invoke("x", b"e").failure is None


def test_replies_that_nobody_reads_do_not_fill_the_memory(tmp_path: Path, probe_code: Path) -> None:
    """A burst of long replies is answered one after the other, as they are taken."""
    with Peer(tmp_path, memory_mib=64, limit=4 * MIB) as peer:
        peer.load(probe_code, memory_bytes=32 * MIB, mailbox=300)
        # Of three million bytes each: all of them together are many times the memory.
        posted = [peer.post("z", timeout_s=peer.seconds(120)) for _ in range(300)]
        replies = [peer.reply() for _ in posted]
        assert sorted(reply.id for reply in replies) == posted
        assert [reply.failure for reply in replies if reply.failure] == []
        assert {len(reply.payload) for reply in replies} == {3_000_000}
