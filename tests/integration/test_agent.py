"""The agent as a real process over a real socket: what its runtime does with every guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.actors import Init, command, command_component, compiled, probe, routed
from support.peer import ACTOR, MEMORY_BYTES, MESSAGE_LIMIT, PLATFORM, TRAP, Given, Peer, refused

from plexspaces_node.link import frames as link
from plexspaces_node.toolchains.wasm.assembly import assemble

NO_NODE_STATUS = 3
"""Of an agent whose node is gone or would not talk to it."""


@pytest.fixture(scope="session")
def command_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(command(), tmp_path_factory.mktemp("command"))


@pytest.fixture
def actor(peer: Peer, probe_code: Path) -> Peer:
    assert isinstance(peer.load(probe_code), link.Loaded)
    return peer


@pytest.mark.parametrize("size", [0, 1, 100, 100_000, MESSAGE_LIMIT])
def test_echo_of_any_size_returns_the_same_bytes(actor: Peer, size: int) -> None:
    """A payload crosses the boundary unchanged, up to the cap and with every byte value."""
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert actor.invoke("e", payload).payload == payload


def test_sender_and_unicode_reach_the_actor(actor: Peer) -> None:
    """Strings cross the boundary as UTF-8, in both directions."""
    assert actor.invoke("who").payload == b"tester"
    failure = actor.invoke("f", "größe ✓ 𝄞".encode()).failure
    assert failure is not None
    assert failure.message == "größe ✓ 𝄞"


def test_reply_tells_compute_and_not_the_time_waited_in_host_calls(actor: Peer) -> None:
    """Compute is what lies inside the guest, with the waits for the node subtracted."""
    actor.host_answers[link.Ask] = Given(b"pong")
    reply = actor.invoke("a", routed("other", "x", b"ping"))
    assert reply.payload == b"pong"
    assert reply.wait_ns > 0
    assert reply.compute_ns > 0
    [ask] = actor.of(link.Ask)
    assert (ask.to, ask.type, actor.bodies(link.Ask)) == ("other", "x", [b"ping"])


def test_error_record_leaves_the_instance_alive(actor: Peer) -> None:
    """An actor's own error reaches the caller with its code, and the state lives on."""
    actor.invoke("c")
    failure = actor.invoke("f", b"not today").failure
    assert failure == link.Failure(origin=ACTOR, code="nope", message="not today", retryable=True)
    assert actor.invoke("c").payload == (2).to_bytes(4, "little")


def test_trap_costs_the_instance_and_the_next_message_starts_from_the_snapshot(
    peer: Peer, probe_code: Path
) -> None:
    """After a trap the actor is made anew from the state it was loaded with."""
    peer.load(probe_code, state=(40).to_bytes(4, "little"))
    assert peer.invoke("c").payload == (41).to_bytes(4, "little")
    failure = peer.invoke("t").failure
    assert failure is not None
    assert (failure.origin, failure.code) == (TRAP, "unreachable")
    assert peer.invoke("c").payload == (41).to_bytes(4, "little")
    assert any(log.stream == "agent" for log in peer.lines())


def test_endless_loop_is_stopped_at_its_deadline_and_the_next_message_is_answered(
    actor: Peer,
) -> None:
    """Code that never returns is interrupted when the message's time is over, not before."""
    reply = actor.invoke("l", timeout_s=0.2)
    assert reply.failure is not None
    assert (reply.failure.origin, reply.failure.code) == (PLATFORM, "deadline_exceeded")
    assert reply.compute_ns >= 0.19 * 1e9
    assert actor.invoke("e", b"x").payload == b"x"


def test_memory_bomb_is_stopped_by_the_cap_and_the_next_message_is_answered(actor: Peer) -> None:
    """An actor cannot take more linear memory than it was given."""
    failure = actor.invoke("m").failure
    assert failure is not None
    assert failure.origin == TRAP
    rss_kib = int(
        Path(f"/proc/{actor.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    )
    assert rss_kib * 1024 < MEMORY_BYTES + 128 * 1024 * 1024
    assert actor.invoke("e", b"x").payload == b"x"


def test_reply_over_what_can_be_carried_is_an_error_and_not_a_crash(actor: Peer) -> None:
    """A reply larger than the runtime can hand over fails alone."""
    failure = actor.invoke("z").failure
    assert failure is not None
    assert failure.code == "reply-too-large"
    assert actor.invoke("e", b"x").payload == b"x"


def test_keyvalue_asks_the_node(actor: Peer) -> None:
    """The actor's store lies with the node: get, put and delete go over the link."""
    actor.host_answers[link.Get] = Given(b"stored")
    assert actor.invoke("g", b"key").payload == b"stored"
    assert actor.invoke("p", b"key").failure is None
    assert actor.invoke("d", b"key").failure is None
    assert [frame.key for frame in actor.of(link.Put)] == ["key"]
    assert actor.bodies(link.Put) == [b"key"]
    assert [frame.key for frame in actor.of(link.Delete)] == ["key"]


def test_key_that_is_not_there_differs_from_an_error(actor: Peer) -> None:
    """No value is `none`, a refusal is the error case."""
    assert actor.invoke("g", b"key").payload == b""
    actor.host_answers[link.Put] = refused("resource_exhausted", "full")
    failure = actor.invoke("p", b"key").failure
    assert failure is not None
    assert failure.message == "full"


def test_ask_that_fails_hands_the_platform_code_on_with_dashes(actor: Peer) -> None:
    """The error record an actor sees follows the naming of the contract."""
    actor.host_answers[link.Ask] = refused("not_found", "?")
    failure = actor.invoke("a", routed("nobody", "x")).failure
    assert failure is not None
    assert failure.code == "not-found"


def test_init_error_refuses_the_load_with_the_actors_own_words(peer: Peer, tmp_path: Path) -> None:
    """What `init` says is what the deploy reports."""
    answer = peer.load(compiled(probe(Init.ERROR), tmp_path))
    assert isinstance(answer, link.Failed)
    assert "init said no" in answer.failure.message


@pytest.mark.parametrize(
    ("init", "code"), [(Init.TRAP, "unreachable"), (Init.LOOP, "deadline_exceeded")]
)
def test_init_that_traps_or_loops_refuses_the_load(
    peer: Peer, tmp_path: Path, init: Init, code: str
) -> None:
    """A load ends in time whatever `init` does."""
    answer = peer.load(compiled(probe(init), tmp_path), timeout_ns=200_000_000)
    assert isinstance(answer, link.Failed)
    assert answer.failure.code == code


def test_memory_too_small_to_begin_with_refuses_the_load_in_mebibytes(
    peer: Peer, probe_code: Path
) -> None:
    """What the engine says of it is understood: an actor that never fits is told apart."""
    answer = peer.load(probe_code, memory_bytes=64 * 1024)
    assert isinstance(answer, link.Failed)
    assert (answer.failure.origin, answer.failure.code) == (ACTOR, "too-little-memory")
    assert "needs 1 MiB of memory to start, but only 0 MiB are left" in answer.failure.message
    assert "--memory" in str(answer.failure.hint)


def test_full_mailbox_refuses_at_once(peer: Peer, probe_code: Path) -> None:
    """What does not fit is answered, not queued without bound."""
    peer.load(probe_code, mailbox=1)
    blocker = peer.post("l", timeout_s=0.5)
    posted = [peer.post("e") for _ in range(20)]
    replies = {reply.id: reply for reply in (peer.reply() for _ in range(21))}
    refused = [id for id in posted if (f := replies[id].failure) and f.code == "resource_exhausted"]
    assert len(refused) >= 18
    assert replies[blocker].failure is not None


def test_message_whose_time_ran_out_in_the_mailbox_is_not_run(actor: Peer) -> None:
    """A deadline holds from arrival, waiting included."""
    actor.post("l", timeout_s=0.3)
    late = actor.post("c", timeout_s=0.05)
    while (reply := actor.reply()).id != late:
        pass
    assert reply.failure is not None
    assert reply.failure.code == "deadline_exceeded"
    assert actor.invoke("c").payload == (1).to_bytes(4, "little")


def test_cancelled_message_that_waits_is_never_run(actor: Peer) -> None:
    """When its caller has gone, a waiting message is answered without the actor."""
    actor.post("l", timeout_s=0.3)
    abandoned = actor.post("c")
    actor.send(link.Cancel(id=abandoned))
    last = actor.post("c")
    replies = {reply.id: reply for reply in [actor.reply() for _ in range(3)]}
    dropped = replies[abandoned].failure
    assert dropped is not None
    assert "no longer waits" in dropped.message
    assert replies[last].payload == (1).to_bytes(4, "little")


def test_snapshot_is_sent_when_the_state_changed_and_only_then(
    peer: Peer, probe_code: Path
) -> None:
    """The state is snapshotted between messages, and an unchanged one is not sent again."""
    peer.load(probe_code, snapshot_interval_ns=1)
    peer.invoke("c")
    peer.invoke("e")
    peer.invoke("e")
    assert peer.states() == [(1).to_bytes(4, "little")]


def test_stop_snapshots_and_shuts_down_before_the_goodbye(peer: Peer, probe_code: Path) -> None:
    """A stop in good order loses nothing and calls `shutdown`."""
    peer.load(probe_code)
    peer.invoke("c")
    peer.stop()
    assert peer.states() == [(1).to_bytes(4, "little")]
    assert [log.message for log in peer.lines()] == ["nope"]


def test_broken_link_ends_an_agent_that_is_a_process(actor: Peer) -> None:
    """Behind its walls it can open no other: its machine is made anew, and it says why."""
    actor.invoke("c")
    actor.drop()
    assert actor.process.wait(actor.seconds(10)) == NO_NODE_STATUS


def test_second_load_is_refused(actor: Peer, probe_code: Path) -> None:
    """A machine runs one application in its life."""
    answer = actor.load(probe_code)
    assert isinstance(answer, link.Failed)
    assert answer.failure.code == "wrong_state"


def test_load_of_what_is_no_artifact_is_an_error(peer: Peer, tmp_path: Path) -> None:
    """A compiled artifact that cannot be loaded costs an answer, not the agent."""
    garbage = tmp_path / "garbage.cwasm"
    garbage.write_bytes(b"garbage")
    answer = peer.load(garbage)
    assert isinstance(answer, link.Failed)
    assert answer.failure.code == "internal"


@pytest.fixture
def runner(peer: Peer, command_code: Path) -> Peer:
    assert isinstance(peer.load(command_code, kind="command"), link.Loaded)
    return peer


@pytest.mark.parametrize("size", [0, 1, 100, 100_000, MESSAGE_LIMIT])
def test_command_gets_its_input_and_gives_its_output(runner: Peer, size: int) -> None:
    """A WASI command reads the payload on stdin and answers on stdout, message after message."""
    payload = bytes(range(7)) * (size // 7 + 1)
    assert runner.invoke("any", payload[:size]).payload == payload[:size]
    assert runner.invoke("any", b"next").payload == b"next"


def test_command_that_ends_with_a_status_fails_with_its_last_words(runner: Peer) -> None:
    """An exit status other than 0 is the command's own failure."""
    failure = runner.invoke("any", b"x").failure
    assert failure is not None
    assert (failure.origin, failure.code, failure.message) == (ACTOR, "exit-3", "no such thing")
    assert [log.message for log in runner.lines()] == ["no such thing"]


@pytest.mark.parametrize(
    ("first", "code"),
    [(b"t", "unreachable"), (b"l", "deadline_exceeded"), (b"b", "reply-too-large")],
)
def test_command_that_misbehaves_costs_one_message(runner: Peer, first: bytes, code: str) -> None:
    """A trap, an endless loop and a flood end alone."""
    failure = runner.invoke("any", first, timeout_s=1.0).failure
    assert failure is not None
    assert failure.code == code
    assert code != "unreachable" or str(failure.hint).endswith("plexspaces logs app")
    assert runner.invoke("any", b"next").payload == b"next"


def test_command_component_runs_like_any_command(peer: Peer, tmp_path: Path) -> None:
    """A WASI 0.2 command reads stdin and answers on stdout; its error result is a failure."""
    code = compiled(command_component(), tmp_path)
    assert isinstance(peer.load(code, kind="command-component"), link.Loaded)
    assert peer.invoke("any", b"through streams").payload == b"through streams"
    failure = peer.invoke("any", b"").failure
    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, "exit-1")
    assert peer.invoke("any", b"again").payload == b"again"


def test_texts_of_any_length_are_cut_and_the_link_lives(actor: Peer) -> None:
    """A huge line of the log or error text is cut, a huge key refused; nothing else is lost."""
    huge = b"x" * (MESSAGE_LIMIT - 8)
    assert actor.invoke("o", huge).failure is None
    [line] = actor.lines()
    assert len(line.message) <= link.TEXT_BYTES
    failure = actor.invoke("f", huge).failure
    assert failure is not None
    assert len(failure.message) <= link.TEXT_BYTES
    refused = actor.invoke("p", huge).failure
    assert refused is not None
    assert "key" in refused.message
    assert actor.of(link.Put) == []


def test_names_of_any_length_in_a_trap_are_cut_and_the_link_lives(
    peer: Peer, tmp_path: Path
) -> None:
    """A program names its functions as it likes; the line of the log that tells them is one."""
    names = [f"$f{number}{'a' * 7000}" for number in range(19)]
    calls = [f"(call {name})" for name in names[1:]] + ["unreachable"]
    functions = [f"(func {name} {call})" for name, call in zip(names, calls, strict=True)]
    start = f'(func (export "_start") (call {names[0]}))'
    module = f'(module (memory (export "memory") 1) {" ".join(functions)} {start})'
    assert isinstance(peer.load(compiled(assemble(module), tmp_path), kind="command"), link.Loaded)
    for _ in range(2):
        failure = peer.invoke("x").failure
        assert failure is not None
        assert failure.code == "unreachable"
    lines = [line.message for line in peer.lines()]
    assert all(len(line.encode()) <= link.TEXT_BYTES for line in lines)
    assert "f18aaa" in lines[0]
