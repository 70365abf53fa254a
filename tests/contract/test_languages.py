"""The actor contract in every language: the same cases against one actor each, from source.

The actors answer the messages of tests/actors/README.md. `--languages` says which must be there.
First the real agent process at a bare link, then, for what applications do with one another, a
real node.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from support.actors import probe, routed
from support.languages import MEMORY_BYTES, Built, built_from
from support.peer import MESSAGE_LIMIT, Peer

from plexspaces_node import NodeClient
from plexspaces_node.build import new_project
from plexspaces_node.build.workload import primes_payload, primes_reply
from plexspaces_node.errors import ActorError, ActorFailed, WrongState
from plexspaces_node.model import MIB, ApplicationState, ArtifactKind, Language
from plexspaces_node.wire import link

TEXT = "żółw ñandú Привет ✓ 𝄞"
SLOW_S = 15.0
"""For what takes a moment on a slow machine; nothing waits this long where all is well."""
RUNTIME_BYTES = 256 * MIB
"""What an agent may hold beside its actor's memory: Python, wasmtime and the mapped code."""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        yield peer


@pytest.fixture
def actor(peer: Peer, built: Built) -> Peer:
    load(peer, built)
    return peer


def load(peer: Peer, built: Built, state: bytes = b"") -> None:
    """Load the actor, or fail with what it said."""
    loaded = peer.load(
        built.code, state=state, memory_bytes=MEMORY_BYTES, timeout_ns=int(SLOW_S * 1e9)
    )
    assert isinstance(loaded, link.Loaded), loaded


def failure_of(reply: link.Reply) -> link.LinkFailure:
    """Return the failure that a reply must carry."""
    assert reply.failure is not None, reply.payload[:100]
    return reply.failure


# ---- the artifact ---------------------------------------------------------------------------


def test_build_makes_an_actor(built: Built, language: str) -> None:
    """An ordinary project becomes an actor component, by `plexspaces build` alone."""
    assert (built.result.language, built.result.kind) == (language, ArtifactKind.ACTOR)


# ---- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 100_000, MESSAGE_LIMIT])
def test_echo_of_any_size_returns_the_same_bytes(actor: Peer, size: int) -> None:
    """A payload with every byte value comes back unchanged, from none up to the cap."""
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    reply = actor.invoke("echo", payload, timeout_s=SLOW_S)
    assert (reply.failure, reply.payload) == (None, payload)


def test_text_is_utf8_in_both_directions(actor: Peer) -> None:
    """Letters of several alphabets, and one beyond the first 65,536, are texts on both sides."""
    assert actor.invoke("upper", TEXT.encode()).payload.decode() == TEXT.upper()
    assert failure_of(actor.invoke("fail", TEXT.encode())).message == TEXT
    assert actor.invoke("sender").payload == b"tester"


def test_many_large_messages_leave_the_heap_whole(actor: Peer) -> None:
    """Collecting garbage while the host writes into the actor's memory damages nothing."""
    actor.host_answers[link.Get] = link.Answer(0, bytes(1000))
    for number in range(200):
        payload = bytes([number]) * 100_000
        assert actor.invoke("echo", payload).payload == payload
        assert actor.invoke("get", b"key").payload == bytes(1000)
        assert actor.invoke("upper", b"abc" * 1000).payload == b"ABC" * 1000


def test_ten_thousand_messages_do_not_grow_the_agent(actor: Peer) -> None:
    """Nothing of a message is kept: the memory after 10,000 is that after the first thousand."""
    payload = bytes(100)

    def send(count: int) -> None:
        for _ in range(count):
            assert actor.invoke("echo", payload).payload == payload

    send(1000)
    before = actor.rss_bytes()
    send(9000)
    assert actor.rss_bytes() - before < 4 * MIB


# ---- state ----------------------------------------------------------------------------------


def test_state_over_a_thousand_messages_is_exact(actor: Peer) -> None:
    """One instance handles them all, one at a time, and forgets nothing."""
    assert actor.invoke("state").payload == b"0"
    for number in range(1, 1001):
        assert actor.invoke("count").payload == b"%d" % number
    assert actor.invoke("state").payload == b"1000"


def test_state_comes_back_from_the_snapshot_of_a_stop(tmp_path: Path, built: Built) -> None:
    """Stopped in good order, an actor leaves a snapshot; init in a new machine restores it."""
    (tmp_path / "first").mkdir()
    with Peer(tmp_path / "first") as first:
        load(first, built)
        for _ in range(3):
            first.invoke("count")
        first.stop()
        [snapshot] = first.of(link.State)
    (tmp_path / "second").mkdir()
    with Peer(tmp_path / "second") as second:
        load(second, built, snapshot.state)
        assert second.invoke("state").payload == b"3"
        assert second.invoke("count").payload == b"4"


def test_init_with_a_snapshot_of_something_else_says_why(peer: Peer, built: Built) -> None:
    """A state the actor cannot read fails the start with its own words, and not silently."""
    answer = peer.load(built.code, state=b"\xff\x00not a state", memory_bytes=MEMORY_BYTES)
    assert isinstance(answer, link.Failed)
    assert (answer.failure.origin, answer.failure.code) == ("actor", "init")
    assert len(answer.failure.message) > len("init: ")


# ---- what goes wrong ------------------------------------------------------------------------


def test_error_record_reaches_the_caller_and_the_state_lives_on(actor: Peer) -> None:
    """Code, message and whether to retry arrive as given; the instance is the same."""
    actor.invoke("count")
    failure = failure_of(actor.invoke("fail", b"not today"))
    assert failure == link.LinkFailure("actor", "asked", "not today", None, True)
    assert actor.invoke("count").payload == b"2"


def test_unknown_message_type_names_the_known_ones(actor: Peer) -> None:
    """A type without a handler is an error record that helps."""
    failure = failure_of(actor.invoke("no-such-type"))
    assert (failure.origin, failure.code, failure.retryable) == ("actor", "unknown-message", False)
    assert "no-such-type" in failure.message
    assert all(known in failure.message for known in ("echo", "count", "hoard"))


def test_payload_that_is_not_what_the_handler_takes_is_an_error_record(actor: Peer) -> None:
    """What is no JSON is refused by the SDK, before the handler."""
    failure = failure_of(actor.invoke("put", b"{not json"))
    assert (failure.origin, failure.code) == ("actor", "bad-payload")


def test_throw_is_told_to_the_caller_and_the_next_message_is_answered(
    actor: Peer, built: Built
) -> None:
    """A panic, throw or exception shows its message, and costs at most the instance."""
    actor.invoke("count")
    failure = failure_of(actor.invoke("throw", b"what"))
    assert failure.code == built.expected.thrown
    assert "boom: what" in failure.message
    after = b"2" if built.expected.survives else b"1"
    assert actor.invoke("count").payload == after
    # The SDK logs what it caught; what it cannot catch, the language itself writes to stderr.
    where = ("log", "error") if built.expected.survives else ("stderr", "warn")
    said = [line for line in actor.of(link.Log) if (line.stream, line.level) == where]
    assert any("boom: what" in line.message for line in said)


def test_endless_loop_is_stopped_by_its_deadline(actor: Peer) -> None:
    """The caller hears of it when the time is over, and the next message is answered."""
    begin = time.monotonic()
    failure = failure_of(actor.invoke("loop", timeout_s=0.3))
    took = time.monotonic() - begin
    assert (failure.origin, failure.code) == ("platform", "deadline_exceeded")
    assert 0.3 <= took < 10
    assert actor.invoke("echo", b"x").payload == b"x"


def test_memory_bomb_is_stopped_by_the_cap(actor: Peer) -> None:
    """No more memory is taken than was given, and the next message is answered."""
    failure = failure_of(actor.invoke("hoard", timeout_s=SLOW_S))
    assert failure.origin == "trap" or failure.code == "exception", failure
    assert actor.rss_bytes() < MEMORY_BYTES + RUNTIME_BYTES
    assert actor.invoke("echo", b"x", timeout_s=SLOW_S).payload == b"x"


# ---- the host -------------------------------------------------------------------------------


def test_log_arrives_with_its_level(actor: Peer) -> None:
    """A line of the log is the text that was logged, whole."""
    assert actor.invoke("log", TEXT.encode()).payload == b""
    assert [(log.level, log.message) for log in actor.of(link.Log) if log.stream == "log"] == [
        ("info", TEXT)
    ]


def test_environment_is_the_applications_own(actor: Peer) -> None:
    """Variables of the deploy are there; those of the builder and of the host are not."""
    assert actor.invoke("env", b"GREETING").payload == b"hello"
    assert actor.invoke("env", b"PATH").payload == b""


def test_clock_is_the_hosts(actor: Peer) -> None:
    """The time is now, and goes on."""
    before_ms = time.time_ns() // 1_000_000
    first, second = (int(actor.invoke("now").payload) for _ in range(2))
    after_ms = time.time_ns() // 1_000_000
    assert before_ms <= first <= second <= after_ms


def test_random_differs_each_time_and_in_each_instance(
    actor: Peer, built: Built, tmp_path: Path
) -> None:
    """No two draws are alike, also not those of two instances of one artifact."""
    (tmp_path / "other").mkdir()
    with Peer(tmp_path / "other") as other:
        load(other, built)
        draws = [peer.invoke("random").payload for peer in (actor, actor, other, other)]
    assert [len(bytes.fromhex(draw.decode())) for draw in draws] == [16] * 4
    assert len(set(draws)) == 4


def test_primes_are_those_the_host_finds(actor: Peer) -> None:
    """The workload's reply is the same number in every language."""
    for limit in (0, 1, 2, 3, 10, 20_000):
        reply = actor.invoke("primes", primes_payload(limit), timeout_s=SLOW_S)
        assert (reply.failure, reply.payload) == (None, primes_reply(limit))


# ---- on a node ------------------------------------------------------------------------------


@asynccontextmanager
async def deployed(client: NodeClient, wasm: Path, *names: str) -> AsyncIterator[None]:
    """Deploy an artifact under each name, and undeploy all at the end."""
    async with AsyncExitStack() as stack:
        for name in names:
            await client.deploy(name, wasm)
            stack.push_async_callback(client.undeploy, name)
        yield


def message(to: str, type: str, data: str = "", timeout_ms: int = 10_000) -> bytes:
    """Return the payload of `ask` and `tell`."""
    return json.dumps({"to": to, "type": type, "data": data, "timeout_ms": timeout_ms}).encode()


async def test_language_is_read_from_the_artifact(
    client: NodeClient, built: Built, language: str
) -> None:
    """Nobody has to say what an actor was written in."""
    async with deployed(client, built.wasm, "one"):
        info = await client.inspect("one")
        assert (info.language, info.kind) == (language, ArtifactKind.ACTOR)


async def test_keyvalue_keeps_what_was_put(client: NodeClient, built: Built) -> None:
    """Put, get, replace and delete; a key that is not there; all of it beyond a restart."""
    async with deployed(client, built.wasm, "one"):

        async def get(key: str) -> str:
            return (await client.invoke("one", key.encode(), type="get")).payload.decode()

        async def put(key: str, value: str) -> bytes:
            entry = json.dumps({"key": key, "value": value}).encode()
            return (await client.invoke("one", entry, type="put")).payload

        assert await get("missing") == ""
        assert await put("clé", "") == b""
        assert await put("clé", TEXT) == b""
        await put("gone", "x")
        await client.invoke("one", b"gone", type="delete")
        await client.invoke("one", b"never-there", type="delete")
        await client.stop("one")
        await client.start("one")
        assert (await get("clé"), await get("gone")) == (TEXT, "")


async def test_state_survives_stop_and_start(client: NodeClient, built: Built) -> None:
    """What was counted before a stop is there after the start, in a new machine."""
    async with deployed(client, built.wasm, "one"):
        for _ in range(3):
            await client.invoke("one", type="count")
        assert (await client.stop("one")).state is ApplicationState.STOPPED
        assert (await client.start("one")).state is ApplicationState.RUNNING
        assert (await client.invoke("one", type="count")).payload == b"4"


async def test_tell_is_handled_by_the_other(client: NodeClient, built: Built) -> None:
    """A message that was told is handled before what comes after it, and its sender is known."""
    async with deployed(client, built.wasm, "one", "two"):
        for _ in range(2):
            told = await client.invoke("one", message("two", "count"), type="tell")
            assert told.payload == b"told"
        assert (await client.invoke("two", type="state")).payload == b"2"
        assert (await client.invoke("one", type="state")).payload == b"0"


async def test_ask_brings_the_others_answer(client: NodeClient, built: Built) -> None:
    """The reply comes back as it was given; asks may be nested; the sender is who asks."""
    async with deployed(client, built.wasm, "one", "two", "three"):

        async def ask(payload: bytes) -> str:
            return (await client.invoke("one", payload, type="ask")).payload.decode()

        assert await ask(message("two", "upper", TEXT)) == TEXT.upper()
        assert await ask(message("two", "sender")) == "one"
        inner = message("three", "sender").decode()
        assert await ask(message("two", "ask", inner)) == "two"
        assert await ask(message("two", "echo", "x" * 100_000)) == "x" * 100_000


async def test_ask_and_tell_cross_languages(
    client: NodeClient, built: Built, tmp_path: Path
) -> None:
    """An actor of no language at all, written by hand, is asked and asks."""
    other = tmp_path / "probe.wasm"
    other.write_bytes(probe())
    async with deployed(client, built.wasm, "one"), deployed(client, other, "probe"):
        asked = await client.invoke("one", message("probe", "who"), type="ask")
        assert asked.payload == b"one"
        await client.invoke("one", message("probe", "c"), type="tell")
        assert (await client.invoke("probe", type="c")).payload == (2).to_bytes(4, "little")
        # The probe sends types of one byte only, which no language's actor knows.
        with pytest.raises(ActorFailed) as error:
            await client.invoke("probe", routed("one", "x"), type="a")
        assert error.value.code == "unknown-message"


async def test_ask_carries_the_others_error_record(client: NodeClient, built: Built) -> None:
    """Left alone, the record an ask was answered with is the answer of the actor that asked."""
    async with deployed(client, built.wasm, "one", "two"):
        with pytest.raises(ActorFailed) as error:
            await client.invoke("one", message("two", "fail", TEXT), type="ask")
        assert (error.value.code, error.value.message) == ("asked", TEXT)
        assert error.value.retryable


@pytest.mark.parametrize(
    ("to", "type", "data", "code"),
    [
        ("one", "state", "", "call-cycle"),
        ("two", "ask", message("one", "state").decode(), "call-cycle"),
        ("nobody", "state", "", "not-found"),
        ("stopped", "state", "", "wrong-state"),
        ("two", "loop", "", "deadline-exceeded"),
    ],
    ids=["itself", "a ring", "nobody", "a stopped one", "one that does not end"],
)
async def test_ask_that_cannot_be_answered_is_an_error_record(
    ask_pair: NodeClient, to: str, type: str, data: str, code: str
) -> None:
    """Whoever cannot answer is told by a code of its own; nothing waits for ever."""
    begin = time.monotonic()
    with pytest.raises(ActorFailed) as error:
        await ask_pair.invoke("one", message(to, type, data, timeout_ms=500), type="ask")
    assert error.value.code == code
    assert time.monotonic() - begin < 10
    assert (await ask_pair.invoke("one", b"alive", type="echo")).payload == b"alive"


@pytest.fixture
async def ask_pair(client: NodeClient, built: Built) -> AsyncIterator[NodeClient]:
    """The client, with two applications that run and one that is stopped."""
    async with deployed(client, built.wasm, "one", "two", "stopped"):
        await client.stop("stopped")
        yield client


async def test_tell_to_a_stopped_application_is_an_error_record(ask_pair: NodeClient) -> None:
    """A message that cannot be queued is not lost in silence."""
    with pytest.raises(ActorFailed) as error:
        await ask_pair.invoke("one", message("stopped", "count"), type="tell")
    assert error.value.code == "wrong-state"
    with pytest.raises(WrongState):
        await ask_pair.invoke("stopped", type="count")


async def test_throw_is_in_the_log_of_the_application(client: NodeClient, built: Built) -> None:
    """Where an exception came from can be read afterwards."""
    async with deployed(client, built.wasm, "one"):
        with pytest.raises(ActorError, match="boom: what"):
            await client.invoke("one", b"what", type="throw")
        lines = [line.message async for line in client.logs("one")]
        assert any("boom: what" in line for line in lines)


# ---- what `plexspaces new` makes ------------------------------------------------------------


@pytest.fixture(scope="session")
def new_wasm(language: str, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project's artifact; after `built`, so that a missing compiler skips."""
    directory = tmp_path_factory.mktemp("new")
    project = new_project(Language(language), "my-app", directory / "my-app")
    return built_from(project, directory / "my-app.wasm").path


async def test_new_project_builds_answers_and_remembers(client: NodeClient, new_wasm: Path) -> None:
    """What `plexspaces new` makes is the same small application in every language."""
    async with deployed(client, new_wasm, "my-app"):

        async def greet(name: str) -> object:
            request = json.dumps({"name": name}).encode()
            return json.loads((await client.invoke("my-app", request, type="greet")).payload)

        assert await greet("Ada") == {"text": "Hello, Ada!", "count": 1}
        assert await greet("Żółw") == {"text": "Hello, Żółw!", "count": 2}
        with pytest.raises(ActorFailed) as error:
            await greet("")
        assert error.value.code == "no-name"
        await client.stop("my-app")
        await client.start("my-app")
        assert (await client.invoke("my-app", type="count")).payload == b"2"
