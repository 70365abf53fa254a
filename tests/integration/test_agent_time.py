"""The agent as a real process, and actors that take their time: at snapshots and in `init`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.actors import ACTORS, compiled
from support.peer import PLATFORM, SECOND_NS, Peer

from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB
from plexspaces_node.toolchains.wasm.assembly import assemble

GIVEN_UP_STATUS = 4
"""Of an agent whose actor cannot be made anew beside it."""

STOP_ID = 1_000_000

_ASKS = "(call $get (i32.const 16) (i32.const 4) (i32.const 320))"
_SNAPSHOT = "(if (global.get $is-stuck) (then unreachable))"
_INIT = "(if (i32.eq (i32.const INIT) (i32.const 2)) (then unreachable))"


def waiting(directory: Path, place: str) -> Path:
    """Compile the probe with a question to the node in some place: the test says how long."""
    text = (ACTORS / "probe.wat").read_text()
    assert text.count(place) == 1
    text = text.replace(place, place + _ASKS).replace("i32.const INIT", "i32.const 0")
    return compiled(assemble(text), directory)


@pytest.fixture(scope="session")
def slow_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return waiting(tmp_path_factory.mktemp("snapshot"), _SNAPSHOT)


@pytest.fixture(scope="session")
def slow_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return waiting(tmp_path_factory.mktemp("init"), _INIT)


def answer(peer: Peer, call: link.HostCall) -> None:
    peer.send(link.Answer(id=call.id))


def ask_to_stop(peer: Peer) -> None:
    """Ask with less time than the snapshot takes."""
    peer.send(link.Stop(id=STOP_ID, timeout_ns=SECOND_NS // 5))


def test_stop_waits_for_a_snapshot_that_takes_long(peer: Peer, slow_snapshot: Path) -> None:
    """What the actor did is not lost for its snapshot taking longer than other steps may."""
    peer.load(slow_snapshot)
    peer.invoke("c")
    ask_to_stop(peer)
    asked, _ = peer.receive(link.Get)
    time.sleep(1.0)
    answer(peer, asked)
    assert peer.receive(link.Stopped)[0].id == STOP_ID
    assert peer.states() == [(1).to_bytes(4, "little")]


def test_stop_that_cannot_save_is_refused_before_the_actor_is_made_anew(
    peer: Peer, slow_init: Path
) -> None:
    """Making it anew may take longer than whoever stops it waits."""
    peer.load(slow_init)
    peer.invoke("n")
    ask_to_stop(peer)
    failed, _ = peer.receive(link.Failed)
    assert failed.id == STOP_ID
    assert "state was not saved" in failed.failure.message
    answer(peer, peer.receive(link.Get)[0])
    assert peer.invoke("c").payload == (1).to_bytes(4, "little")


def test_actor_has_as_long_to_be_made_anew_as_it_had_at_its_load(
    peer: Peer, slow_init: Path
) -> None:
    """Messages wait meanwhile; when it cannot be done the machine ends, and its node counts it."""
    peer.load(slow_init, timeout_ns=2 * SECOND_NS)
    assert peer.invoke("t").failure is not None
    asked, _ = peer.receive(link.Get)
    time.sleep(1.0)
    answer(peer, asked)
    assert peer.invoke("c").payload == (1).to_bytes(4, "little")
    assert peer.invoke("t").failure is not None
    peer.receive(link.Get)
    waits = peer.post("c", timeout_s=0.5)
    late = peer.reply()
    assert late.id == waits
    assert late.failure is not None
    assert late.failure.code == "deadline_exceeded"
    assert peer.process.wait(peer.seconds(5)) == GIVEN_UP_STATUS


def test_message_whose_state_is_long_in_being_handed_over_is_answered_at_its_deadline(
    peer: Peer, slow_snapshot: Path
) -> None:
    """It was handled, and the answer says what is not known yet; the state is kept all the same."""
    peer.load(slow_snapshot)
    peer.post("b", (30 * MIB).to_bytes(4, "little"), timeout_s=1.0)
    asked, _ = peer.receive(link.Get)
    # Before the answer, so it is the deadline that ends it.
    reply = peer.reply()
    assert reply.failure is not None
    assert (reply.failure.origin, reply.failure.code) == (PLATFORM, "deadline_exceeded")
    assert "was handled" in reply.failure.message
    assert reply.wait_ns > 0.5 * SECOND_NS
    answer(peer, asked)
    assert peer.invoke("c").payload == (2).to_bytes(4, "little")
    assert len(peer.saved()) == 30 * MIB


def test_time_of_handing_a_long_state_over_is_the_messages(peer: Peer, slow_snapshot: Path) -> None:
    """Its sender waits for it, so its times tell of it."""
    peer.load(slow_snapshot)
    peer.post("b", (30 * MIB).to_bytes(4, "little"))
    asked, _ = peer.receive(link.Get)
    time.sleep(0.3)
    answer(peer, asked)
    reply = peer.reply()
    assert reply.failure is None
    assert reply.wait_ns > 0.2 * SECOND_NS
