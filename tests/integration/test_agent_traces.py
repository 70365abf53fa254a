"""The agent says for which message an application calls its host, and of which trace a line is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.actors import command_component, compiled, http_async, http_component, routed
from support.peer import Peer

from plexspaces_node.link import frames as link
from plexspaces_node.toolchains.wasm.assembly import assemble

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
OTHER_TRACEPARENT = f"00-{OTHER_TRACE}-00f067aa0ba902b7-00"

ENVIRONMENT = """
(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 4)))
    (drop (call $environ (i32.const 1024) (i32.const 4096)))
    (i32.store (i32.const 0) (i32.const 4096))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""
"""A command that answers with its environment."""

CALLS = (link.Ask, link.Tell, link.Get, link.Put, link.Delete, link.Fetch)
REQUEST = link.RequestHead(method="GET", scheme="http", authority="app.localhost", path="/")


@pytest.fixture
def actor(peer: Peer, probe_code: Path) -> Peer:
    assert isinstance(peer.load(probe_code), link.Loaded)
    return peer


@pytest.fixture
def talker(peer: Peer, talker_code: Path) -> Peer:
    assert isinstance(peer.load(talker_code, kind="command"), link.Loaded)
    return peer


def calls(peer: Peer) -> list[tuple[str, int]]:
    """Return the kinds of the calls that were seen, and for which message they were."""
    seen = (frame for frame, _ in peer.seen if isinstance(frame, CALLS))
    return [(type(frame).__name__, frame.invoke) for frame in seen]


def traces(peer: Peer) -> list[tuple[str, str]]:
    """Return the lines that were seen, and their traces."""
    return [(line.message, line.trace_id) for line in peer.lines()]


def answered(peer: Peer, *ids: int) -> None:
    """Wait for the replies to these messages."""
    waiting = set(ids)
    while waiting:
        waiting.discard(peer.reply().id)


def variables(reply: bytes) -> list[str]:
    """Return the values of TRACEPARENT in an environment."""
    entries = (entry.partition("=") for entry in reply.decode().split("\0"))
    return [value for name, _, value in entries if name == "TRACEPARENT"]


def test_host_calls_of_an_actor_name_the_message_that_is_handled(actor: Peer) -> None:
    """Each kind of them, with or without a trace."""
    expected = []
    for msg_type, payload, kind in [
        ("g", b"key", "Get"),
        ("p", b"key", "Put"),
        ("d", b"key", "Delete"),
        ("a", routed("other", "x"), "Ask"),
        ("s", routed("other", "x"), "Tell"),
    ]:
        for traceparent in ("", TRACEPARENT):
            id = actor.post(msg_type, payload, traceparent=traceparent)
            answered(actor, id)
            expected.append((kind, id))
    assert calls(actor) == expected


def test_lines_of_an_actor_have_the_trace_of_their_message(actor: Peer) -> None:
    """Until the message ends: the next one has another trace, or none."""
    actor.invoke("o", b"one", traceparent=TRACEPARENT)
    actor.invoke("o", b"two")
    actor.invoke("o", b"three", traceparent=OTHER_TRACEPARENT)
    actor.stop()
    lines = [("one", TRACE), ("two", ""), ("three", OTHER_TRACE)]
    assert traces(actor) == [*lines, ("nope", "")]


@pytest.mark.parametrize(
    "traceparent",
    ["x", TRACE, TRACEPARENT.upper(), f"{TRACEPARENT}-more", f"00-{'0' * 32}-b7ad6b7169203331-01"],
)
def test_traceparent_that_is_none_is_ignored(actor: Peer, traceparent: str) -> None:
    """The message is handled as if it had no trace."""
    assert actor.invoke("o", b"one", traceparent=traceparent).failure is None
    assert traces(actor) == [("one", "")]


def test_lines_of_the_agent_about_a_trap_have_the_trace_of_its_message(actor: Peer) -> None:
    """Why it trapped, and that the actor was restarted."""
    assert actor.invoke("t", traceparent=TRACEPARENT).failure is not None
    actor.invoke("o", b"one")
    *said, last = traces(actor)
    assert len(said) == 2
    assert {trace for _, trace in said} == {TRACE}
    assert last == ("one", "")


def test_restart_because_the_state_cannot_be_saved_has_the_trace_too(actor: Peer) -> None:
    """The snapshot itself is for no message, but this one made it necessary."""
    size = (24 * 1024 * 1024).to_bytes(4, "little")
    failure = actor.invoke("n", size, traceparent=TRACEPARENT).failure
    assert failure is not None
    assert failure.code == "state-not-saved"
    actor.invoke("e")
    restarts = [trace for said, trace in traces(actor) if "restarted" in said]
    assert restarts == [TRACE]


def test_messages_of_a_command_at_the_same_time_have_their_own_traces(
    peer: Peer, talker_code: Path
) -> None:
    """Also while they all sleep."""
    assert isinstance(peer.load(talker_code, kind="command", concurrency=3), link.Loaded)
    answered(
        peer,
        peer.post("x", b"e one\ntwo", traceparent=TRACEPARENT),
        peer.post("x", b"e three\nfour"),
        peer.post("x", b"e five\nsix", traceparent=OTHER_TRACEPARENT),
    )
    assert sorted(traces(peer)) == [
        (" five", OTHER_TRACE),
        (" one", TRACE),
        (" three", ""),
        ("four", ""),
        ("six", OTHER_TRACE),
        ("two", TRACE),
    ]


def test_trap_of_a_command_has_the_trace_of_its_message(talker: Peer) -> None:
    """And not that of the next."""
    assert talker.invoke("x", b"t", traceparent=TRACEPARENT).failure is not None
    assert talker.invoke("x", b"e one").failure is None
    *said, last = traces(talker)
    assert {trace for _, trace in said} == {TRACE}
    assert last == (" one", "")


def test_command_finds_its_trace_in_the_environment(peer: Peer, tmp_path: Path) -> None:
    """As OpenTelemetry passes it to a process; without a valid one there is no variable."""
    peer.load(compiled(assemble(ENVIRONMENT), tmp_path), kind="command")
    assert variables(peer.invoke("x", traceparent=TRACEPARENT).payload) == [TRACEPARENT]
    assert variables(peer.invoke("x").payload) == []
    assert variables(peer.invoke("x", traceparent="00-x").payload) == []


def test_variable_of_the_deploy_stays_as_it_is(peer: Peer, tmp_path: Path) -> None:
    """A program that was given a TRACEPARENT of its own keeps it."""
    code = compiled(assemble(ENVIRONMENT), tmp_path)
    peer.load(code, kind="command", env={"TRACEPARENT": "mine"})
    assert variables(peer.invoke("x", traceparent=TRACEPARENT).payload) == ["mine"]
    assert variables(peer.invoke("x").payload) == ["mine"]


def test_calls_of_a_command_component_are_for_its_message(peer: Peer, tmp_path: Path) -> None:
    """Of several at the same time each for its own."""
    code = compiled(command_component(calls=True), tmp_path)
    assert isinstance(peer.load(code, kind="command-component", concurrency=2), link.Loaded)
    one = peer.post("x", b"one", traceparent=TRACEPARENT)
    two = peer.post("x", b"two")
    answered(peer, one, two)
    assert sorted(calls(peer)) == [("Fetch", one), ("Fetch", two), ("Get", one), ("Get", two)]
    assert sorted(traces(peer)) == [("GET", ""), ("GET", TRACE)]


@pytest.mark.parametrize("component", [http_component, http_async], ids=["0.2", "0.3"])
class TestHttpComponent:
    def test_calls_and_lines_are_for_their_request(
        self, peer: Peer, tmp_path: Path, component: Callable[..., bytes]
    ) -> None:
        """Of several at the same time each for its own."""
        code = compiled(component(calls=True), tmp_path)
        assert isinstance(peer.load(code, kind="http-component", concurrency=3), link.Loaded)
        one = peer.post("", request=REQUEST, traceparent=TRACEPARENT)
        two = peer.post("", request=REQUEST)
        three = peer.post("", request=REQUEST, traceparent=OTHER_TRACEPARENT)
        answered(peer, one, two, three)
        ids = (one, two, three)
        assert sorted(calls(peer)) == [
            *(("Fetch", id) for id in ids),
            *(("Get", id) for id in ids),
        ]
        assert sorted(traces(peer)) == [("GET", ""), ("GET", TRACE), ("GET", OTHER_TRACE)]

    def test_trap_has_the_trace_of_its_request(
        self, peer: Peer, tmp_path: Path, component: Callable[..., bytes]
    ) -> None:
        """What the component said before, and what the agent says of it."""
        code = compiled(component(calls=True, traps=True), tmp_path)
        assert isinstance(peer.load(code, kind="http-component"), link.Loaded)
        answered(peer, peer.post("", request=REQUEST, traceparent=TRACEPARENT))
        said = traces(peer)
        assert len(said) == 2
        assert "unreachable" in said[1][0]
        assert {trace for _, trace in said} == {TRACE}
