"""Actors in Go, built by the real compiler and run by the real agent.

What every language must do is in tests/contract/test_languages.py; here is what is Go's own: its
heap and garbage collector beside the host's writing, goroutines, sleep, panics, the log, the end
of the program, and the SDK's and the example's own tests.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from support.actors import ACTORS, compiled
from support.peer import ACTOR, TRAP, Given, Peer

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB, ArtifactKind, Language
from plexspaces_node.toolchains import BuildResult, build
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.workload import primes_payload, primes_reply

GO = str(Path(sys.executable).with_name("go"))
SDK = Path("sdk", "go")
EXAMPLE = Path("examples", "go-ledger")
MESSAGES = 17_000
STRESS_S = 15.0
SLOW_S = 20.0
"""For what takes a moment on a slow machine."""

GO_MOD = """module example.com/probe

go 1.24

require plexspaces v0.1.0

replace plexspaces => %s
"""


def built(project: Path, output: Path) -> BuildResult:
    """Build with the machine's own cache, so that unchanged source costs no compiler's time."""
    return asyncio.run(build(project, output, progress=lambda _line: None))


def checkout(name: Path) -> Path:
    """Return a directory that is shipped, as `shipped` finds it."""
    return shipped(str(name))


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("go-actors")


@pytest.fixture(scope="session")
def ledger(outputs: Path) -> BuildResult:
    return built(checkout(EXAMPLE), outputs / "ledger.wasm")


@pytest.fixture(scope="session")
def ledger_code(ledger: BuildResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(ledger.path.read_bytes(), tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="session")
def probe_code(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wasm = built(ACTORS / "go-probe", outputs / "probe.wasm").path
    return compiled(wasm.read_bytes(), tmp_path_factory.mktemp("probe-code"))


@pytest.fixture
def probe(peer: Peer, probe_code: Path) -> Peer:
    assert isinstance(peer.load(probe_code), link.Loaded)
    return peer


def sent(peer: Peer, message_type: str, payload: bytes = b"") -> bytes:
    """Return the reply, which must be no failure."""
    reply = peer.invoke(message_type, payload, timeout_s=SLOW_S)
    assert reply.failure is None, reply.failure
    return reply.payload


def refused(peer: Peer, message_type: str, payload: bytes = b"") -> link.Failure:
    """Return the failure, which must be there."""
    reply = peer.invoke(message_type, payload, timeout_s=SLOW_S)
    assert reply.failure is not None, reply.payload[:100]
    return reply.failure


def logged(peer: Peer, *streams: str) -> list[tuple[str, str]]:
    """Return level and text of the lines so far."""
    return [(line.level, line.message) for line in peer.lines() if line.stream in streams]


# ---- the build ------------------------------------------------------------------------------


def test_build_of_an_actor_says_what_was_made(ledger: BuildResult) -> None:
    """A project that requires the SDK becomes an actor of the size the documentation gives."""
    assert (ledger.language, ledger.kind) == (Language.GO, ArtifactKind.ACTOR)
    assert ledger.size_bytes < 5 * MIB


def test_build_is_the_same_wherever_the_project_lies(ledger: BuildResult, tmp_path: Path) -> None:
    """Moved to another directory and built again, the artifact is the same byte for byte."""
    shutil.copytree(checkout(SDK), tmp_path / SDK)
    project = tmp_path / "deep" / "er"
    shutil.copytree(checkout(EXAMPLE), project, ignore=shutil.ignore_patterns("dist", "*_test.go"))
    # Nothing that is compiled, and nothing that an earlier run of this test knows.
    (project / "NOTES.md").write_text(uuid.uuid4().hex)
    before = sorted(path.name for path in project.iterdir())

    moved = built(project, tmp_path / "moved.wasm")

    assert not moved.cached
    assert moved.path.read_bytes() == ledger.path.read_bytes()
    assert sorted(path.name for path in project.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package main\n\nfunc main() {\n\tx\n}\n", r"\./main\.go:4:2: undefined: x"),
        ("package lib\n", "is not a program"),
        ("package main\n\nfunc main() {}\n", "serves no actor"),
        (
            'package main\n\nimport "plexspaces/actor"\n\nvar _ = '
            'actor.Handle("x", func(int, int) (int, error) { return 0, nil })\n\nfunc main() {}\n',
            r"main\.go:5:",
        ),
    ],
    ids=["undefined", "library", "without-sdk", "bad-handler"],
)
def test_build_of_an_actor_that_is_wrong_shows_the_compilers_words(
    tmp_path: Path, source: str, said: str
) -> None:
    """A mistake shows with file and line, and the project stays as it is."""
    go_mod = GO_MOD % checkout(SDK)
    (tmp_path / "go.mod").write_text(go_mod)
    (tmp_path / "main.go").write_text(source)

    with pytest.raises(InvalidArgument, match=said):
        built(tmp_path, tmp_path / "out.wasm")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["go.mod", "main.go"]
    assert (tmp_path / "go.mod").read_text() == go_mod


def test_build_with_the_sdk_imported_but_not_required_names_the_commands(tmp_path: Path) -> None:
    """Who writes the import and nothing else is told how the SDK gets into the project."""
    (tmp_path / "go.mod").write_text("module example.com/mine\n\ngo 1.24\n")
    (tmp_path / "main.go").write_text('package main\n\nimport _ "plexspaces/actor"\n')

    with pytest.raises(InvalidArgument, match="plexspaces/actor") as error:
        built(tmp_path, tmp_path / "out.wasm")

    assert "go mod edit -require=plexspaces@v0.1.0" in str(error.value.hint)


@pytest.mark.parametrize("name", [SDK, EXAMPLE], ids=str)
@pytest.mark.parametrize("command", [["vet"], ["test"]], ids=lambda command: str(command[0]))
def test_sdk_and_example_pass_their_own_tests(
    tmp_path: Path, name: Path, command: list[str]
) -> None:
    """In Go's own tools, on the developer's machine and outside of this repository."""
    for part in (SDK, EXAMPLE):
        shutil.copytree(checkout(part), tmp_path / part, ignore=shutil.ignore_patterns("dist"))

    done = subprocess.run(
        [GO, *command, "./..."],
        cwd=tmp_path / name,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


# ---- the example ----------------------------------------------------------------------------


def test_ledger_books_remembers_and_refuses(tmp_path: Path, ledger_code: Path) -> None:
    """Typed JSON, the store, messages, the error record and state beyond a stop, in a component."""
    (tmp_path / "first").mkdir()
    with Peer(tmp_path / "first") as first:
        assert isinstance(first.load(ledger_code), link.Loaded)
        assert sent(first, "watch", b"audit") == b""
        assert json.loads(sent(first, "book", b'{"to":"ann","cents":500}')) == {
            "number": 1,
            "balance": 500,
        }
        failure = refused(first, "book", b'{"from":"ann","to":"bob","cents":501}')
        assert (failure.origin, failure.code) == (ACTOR, "overdrawn")
        assert refused(first, "book", b'{"to":"ann","cents":-1}').code == "bad-payload"
        first.stop()
        assert [frame.key for frame in first.of(link.Put)] == ["booking/1"]
        assert first.bodies(link.Put) == [b'{"to":"ann","cents":500}']
        [tell] = first.of(link.Tell)
        assert (tell.to, tell.type) == ("audit", "booked")
        assert ("info", "booked number=1 cents=500") in logged(first, "log")
        [state] = first.states()
    (tmp_path / "second").mkdir()
    with Peer(tmp_path / "second") as second:
        assert isinstance(second.load(ledger_code, state=state), link.Loaded)
        assert json.loads(sent(second, "accounts")) == {"ann": 500}
        assert sent(second, "primes", primes_payload(10_000)) == primes_reply(10_000)


# ---- heap and garbage collector -------------------------------------------------------------


def test_mixed_messages_leave_the_heap_whole(probe: Peer) -> None:
    """With garbage collected all the time, 17,000 messages of all kinds come through.

    Fewer on a slow machine, where they take too long.
    """
    draw = random.Random(3)
    assert sent(probe, "gc", b"1") == b"100"
    probe.host_answers[link.Get] = Given(b"g" * 1000)
    probe.host_answers[link.Ask] = Given(b"pong" * 500)
    counted = 0
    end = time.monotonic() + STRESS_S
    for _ in range(MESSAGES):
        kind = draw.choice(["echo", "keyvalue", "ask", "count", "tell", "fail", "nothing"])
        payload = draw.randbytes(draw.choice([0, 1, 10, 100, 1000, 20_000]))
        reply = probe.invoke(kind, payload, timeout_s=SLOW_S)
        if kind == "count":
            counted += 1
            assert reply.payload == b"%d" % counted
        elif kind in ("fail", "nothing"):
            assert reply.failure is not None
        else:
            answers = {"echo": payload, "keyvalue": b"g" * 1000, "ask": b"pong" * 500, "tell": b""}
            assert (reply.failure, reply.payload) == (None, answers[kind])
        probe.seen.clear()
        if time.monotonic() > end:
            break
    assert counted > 100


def test_large_heap_is_not_written_into_by_the_host(peer: Peer, probe_code: Path) -> None:
    """200 MiB, filled while clock, log, environment and store are called, read back as written."""
    assert isinstance(peer.load(probe_code, memory_bytes=600 * MIB), link.Loaded)
    peer.host_answers[link.Get] = Given(bytes(100_000))

    for _ in range(2):
        assert sent(peer, "heap", b"200") == b"0"


def test_messages_of_the_cap_come_one_after_another(probe: Peer) -> None:
    """What the host handed over is given back: the block for it holds any number of them."""
    probe.host_answers[link.Get] = Given(bytes(MIB))
    payload = bytes(MIB)
    for _ in range(4):
        assert sent(probe, "keyvalue", payload) == payload


def test_state_longer_than_any_message_is_restored(tmp_path: Path, probe_code: Path) -> None:
    """What the host hands over has room before it comes, and gives it back for messages."""
    sockets = [tmp_path / name for name in ("one", "two")]
    for socket in sockets:
        socket.mkdir()
    with Peer(sockets[0]) as first:
        assert isinstance(first.load(probe_code, memory_bytes=256 * MIB), link.Loaded)
        assert sent(first, "grow", b"20000000") == b"20000000"
        first.stop()
        state = first.states()[-1]
    with Peer(sockets[1]) as second:
        loaded = second.load(probe_code, state=state, memory_bytes=256 * MIB)
        assert isinstance(loaded, link.Loaded)
        assert sent(second, "long") == b"20000000"
        payload = bytes(range(256)) * (MIB // 256)
        for _ in range(4):
            assert sent(second, "echo", payload) == payload


# ---- time and goroutines --------------------------------------------------------------------


def test_sleep_and_timers_take_their_time(probe: Peer) -> None:
    """time.Sleep and time.After work while a message is handled."""
    begin = time.monotonic()
    assert sent(probe, "sleep", b"50") == b"true"
    assert time.monotonic() - begin >= 0.05
    assert sent(probe, "timeout") == b"timeout"


def test_sleep_beyond_the_deadline_is_interrupted(probe: Peer) -> None:
    """An hour's sleep ends at the message's deadline, and the next message is answered."""
    failure = probe.invoke("sleep", b"3600000", timeout_s=0.3).failure
    assert failure is not None
    assert failure.code == "deadline_exceeded"
    assert sent(probe, "echo", b"x") == b"x"


def test_goroutines_may_call_the_host_at_once(probe: Peer) -> None:
    """Answers of the host do not run into each other's, however goroutines are switched."""
    probe.host_answers[link.Get] = Given(b"v" * 1000)
    for _ in range(3):
        assert sent(probe, "goroutines", b"300") == b"300"


def test_goroutine_that_still_runs_goes_on_with_the_next_message(probe: Peer) -> None:
    """Between messages nothing runs; with the next one it does again."""
    first = int(sent(probe, "later"))
    second = int(sent(probe, "later"))
    assert 0 < first < second


# ---- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message_type", "code", "said"),
    [
        ("fail", "failed", "what"),
        ("wrap", "wrapped", "what: wrapped: inside"),
        ("garbled", "no\ufffdpe", "as\ufffdked"),
        ("unwritable", "exception", "the reply cannot be written: unsupported value: NaN"),
        ("nil", "exception", "runtime error: invalid memory address or nil pointer dereference"),
        ("sleep", "bad-payload", "sleep: not JSON: invalid character 'w'"),
        ("nothing", "unknown-message", 'Probe does not know "nothing"; it knows: ask, ask-number'),
        ("ask-number", "bad-reply", 'the answer of "other" to "ping"'),
    ],
)
def test_fault_of_a_handler_is_answered_and_the_instance_lives_on(
    probe: Peer, message_type: str, code: str, said: str
) -> None:
    """Errors, panics and what cannot be read or written cost one message."""
    probe.host_answers[link.Ask] = Given(b"pong")
    sent(probe, "count")
    failure = refused(probe, message_type, b"what")
    assert (failure.origin, failure.code) == (ACTOR, code)
    assert failure.message.startswith(said)
    assert failure.retryable is (message_type == "wrap")
    assert sent(probe, "count") == b"2"


def test_deeply_nested_payload_costs_one_message(probe: Peer) -> None:
    """What would exhaust the small stack of a component is refused before it is read."""
    for opening in (b"[", b'{"a":'):
        assert refused(probe, "tree", opening * 100_000).code == "bad-payload"
    deepest = b"[" * 200 + b"]" * 200
    assert sent(probe, "tree", deepest) == deepest


def test_panic_leaves_the_applications_stack_in_the_log(probe: Peer) -> None:
    """Where it happened is in the log, with file and line, and without the SDK's own frames."""
    refused(probe, "nil")
    [(level, text)] = [line for line in logged(probe, "log") if line[0] == "error"]
    assert level == "error"
    assert text.startswith('"nil" was not handled: panic: runtime error: invalid memory address')
    assert "main.go:" in text
    assert "definition.go" not in text
    assert "panic.go" not in text


@pytest.mark.parametrize(
    ("message_type", "code", "said"),
    [
        ("deadlock", "unreachable", "fatal error: all goroutines are asleep - deadlock!"),
        ("stray", "unreachable", "panic: astray"),
        ("exit", "exit", ""),
        ("recurse", "unreachable", "fatal error: out of memory"),
    ],
)
def test_fault_that_go_cannot_recover_costs_the_instance(
    probe: Peer, message_type: str, code: str, said: str
) -> None:
    """What ends the program says why in the log; the next message finds a new instance."""
    sent(probe, "count")
    failure = refused(probe, message_type)
    assert (failure.origin, failure.code) == (TRAP, code)
    assert sent(probe, "count") == b"1"
    assert not said or ("warn", said) in logged(probe, "stderr")


def test_exit_is_told_with_its_status_and_as_no_panic(probe: Peer) -> None:
    """A program that ends itself on purpose is not said to have panicked."""
    failure = refused(probe, "exit")
    assert failure.message.startswith("handle-message: the program exited with status 3")


# ---- log, start and stop --------------------------------------------------------------------


def test_every_way_to_write_reaches_the_log(probe: Peer) -> None:
    """Standard streams, log and slog arrive with level, text and attributes, at any length."""
    long = "x" * 10_000
    sent(probe, "print", long.encode())
    sent(probe, "echo")
    lines = logged(probe, "stdout", "stderr", "log")
    for line in (
        ("warn", f"println {long}"),
        ("info", f"stdout {long}"),
        ("warn", f"stderr {long}"),
        ("info", f"log {long}"),
        ("debug", f'debug {long} n=1 s="a b" g.k=true'),
        ("warn", "warn with=2 h.x=3"),
        ("error", "error"),
    ):
        assert line in lines


def test_start_and_stop_are_the_applications_too(tmp_path: Path, probe_code: Path) -> None:
    """OnStart sees the restored state, OnShutdown comes last; what is not exported is not kept."""
    with Peer(tmp_path) as peer:
        assert isinstance(peer.load(probe_code, state=b'{"Count":7,"Gone":1}'), link.Loaded)
        assert sent(peer, "count") == b"8"
        sent(peer, "set", b"40")
        peer.stop()
        assert peer.states() == [b'{"Count":40}']
        assert logged(peer, "log")[-1] == ("info", "good-bye")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (b'{"Count":-1}', "init: count -1 is below zero"),
        (b'{"Count":"many"}', "init: the saved state does not fit: json: cannot unmarshal"),
    ],
)
def test_actor_that_does_not_start_says_why(
    peer: Peer, probe_code: Path, state: bytes, said: str
) -> None:
    """State that does not fit, and an error of OnStart, are errors of init."""
    answer = peer.load(probe_code, state=state)
    assert isinstance(answer, link.Failed)
    assert answer.failure.message.startswith(said)


def test_surroundings_are_those_of_a_component(probe: Peer) -> None:
    """There is a program's name, the application's environment and a limit for the collector.

    The limit is three quarters of the memory; there are no files.
    """
    assert json.loads(sent(probe, "surroundings")) == {
        "args": ["actor"],
        "env": [
            "GOMEMLIMIT=50331648",
            "GREETING=hello",
            f"PLEXSPACES_MESSAGE_LIMIT={MIB}",
            "PLEXSPACES_STATE_BYTES=0",
        ],
        "os": "wasip1",
        "age": True,
        "file": True,
    }
