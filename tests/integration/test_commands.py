"""WASI commands in a real agent: what they say, how they end, how many run at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.actors import command_async, compiled
from support.peer import ACTOR, PLATFORM, TRAP, Peer

from plexspaces_node.link import frames as link

LINES = 10_000


@pytest.fixture
def runner(peer: Peer, talker_code: Path) -> Peer:
    assert isinstance(peer.load(talker_code, kind="command", concurrency=2), link.Loaded)
    return peer


def test_output_comes_with_a_status_that_is_not_0(runner: Peer) -> None:
    """Nothing that a program said is lost because it then failed."""
    reply = runner.invoke("any", b"ohalf a result")
    assert reply.failure is not None
    assert (reply.failure.origin, reply.failure.code) == (ACTOR, "exit-1")
    assert reply.payload == b"half a result"


def test_command_of_wasi_0_3_answers_as_others_do(peer: Peer, tmp_path: Path) -> None:
    """What it writes to its stream is the reply, to the end, each time anew."""
    code = compiled(command_async(), tmp_path)
    assert isinstance(peer.load(code, kind="command-component"), link.Loaded)
    for _ in range(3):
        reply = peer.invoke("any", b"x")
        assert (reply.failure, reply.payload) == (None, b"hello")


@pytest.mark.parametrize("words", [b"card number of A", b"card number of A\n"])
def test_words_of_a_message_are_told_to_no_later_caller(runner: Peer, words: bytes) -> None:
    """What an earlier message wrote, with or without the end of its line, is its own."""
    assert runner.invoke("any", b"e" + words).failure is None
    failure = runner.invoke("any", b"q\x03").failure
    assert failure is not None
    assert failure.message == "the command ended with status 3"
    assert failure.hint == ""
    assert [line.message for line in runner.lines()] == ["card number of A"]


@pytest.mark.parametrize("status", [1, 125, 126, 127, 255])
def test_any_status_is_told_as_what_it_is(runner: Peer, status: int) -> None:
    """Statuses up to 255 are a program's to choose, also those that shells use."""
    failure = runner.invoke("any", b"q" + bytes([status])).failure
    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, f"exit-{status}")


def test_sleep_ends_at_the_deadline_of_its_own_message_and_costs_no_other(
    peer: Peer, talker_code: Path
) -> None:
    """A program that sleeps beyond its time is ended; the one that waits behind it is answered."""
    peer.load(talker_code, kind="command", concurrency=1)
    sleeper = peer.post("any", b"z\xff", timeout_s=0.3)
    behind = peer.post("any", b"z\x00", timeout_s=peer.seconds(60))
    first, second = peer.reply(), peer.reply()
    assert (first.id, second.id) == (sleeper, behind)
    assert first.failure is not None
    assert (first.failure.origin, first.failure.code) == (PLATFORM, "deadline_exceeded")
    assert first.wait_ns > first.compute_ns
    assert first.payload == b"z"
    assert (second.failure, second.payload) == (None, b"z")


def test_as_many_run_at_once_as_the_load_says(runner: Peer) -> None:
    """Two sleep together and a third waits; none of them holds a thread."""
    sleepers = {runner.post("any", b"z\xff", timeout_s=0.4) for _ in range(2)}
    third = runner.post("any", b"z\xff", timeout_s=0.2)
    fourth = runner.post("any", b"z\x00")
    replies = [runner.reply() for _ in range(4)]
    by_id = {reply.id: reply for reply in replies}
    waited = by_id[third].failure
    assert waited is not None
    assert "in the mailbox" in waited.message
    assert all(by_id[id].payload == b"z" for id in sleepers)
    assert replies[-1].id == fourth
    assert by_id[fourth].failure is None


def test_arguments_are_the_name_and_what_the_load_says(peer: Peer, talker_code: Path) -> None:
    """A program finds its arguments as on any command line."""
    peer.load(talker_code, kind="command", args=("--all", "größe", ""))
    said = bytes(peer.invoke("any", b"a").payload)
    assert said == "app\0--all\0größe\0\0".encode()


def test_ten_thousand_lines_in_a_message_arrive_in_order_and_before_its_reply(
    runner: Peer,
) -> None:
    """Lines are gathered, not lost, and the next message finds the link as it was."""
    assert runner.invoke("any", b"l").failure is None
    lines = [line.message for line in runner.lines()]
    assert lines == ["l"] * LINES
    assert runner.invoke("any", b"z\x00").payload == b"z"


def test_trap_says_in_which_functions_innermost_first(runner: Peer) -> None:
    """The reply names where it was, the log has every call."""
    failure = runner.invoke("any", b"t").failure
    assert failure is not None
    assert (failure.origin, failure.code) == (TRAP, "unreachable")
    assert "in inner < middle" in failure.message
    [line] = [line.message for line in runner.lines() if line.stream == "agent"]
    inner, middle = line.index("in inner"), line.index("in middle")
    assert inner < middle
