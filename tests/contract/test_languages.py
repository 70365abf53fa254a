"""The actor contract in every language: the same cases against one actor each, from source.

The actors answer the messages of tests/actors/README.md. `--languages` says which must be there,
`--levels` on which isolation levels they run. First the real agent in its machine at a bare link,
then, for what applications do with one another, a real node.

A case takes `actor` when any actor will do: one machine serves all of them, so what it remembers is
compared with what it remembered before. Only a case that needs a machine of its own takes one.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from support.actors import probe, routed
from support.languages import MEMORY_BYTES, Built, built_from, load
from support.levels import MachinePeer, Machines
from support.patience import patient
from support.peer import ACTOR, MESSAGE_LIMIT, PLATFORM, TRAP, Given, Replied

from plexspaces_node import NodeClient
from plexspaces_node.errors import ActorError, ActorFailed, WrongState
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB, ApplicationState, ArtifactKind, Language
from plexspaces_node.toolchains import BuildResult, new_project
from plexspaces_node.toolchains.workload import primes_payload, primes_reply

TEXT = "żółw ñandú Привет ✓ 𝄞"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SLACK_BYTES = 64 * MIB
"""What a machine may take of the host beside what was given to its actor."""


@pytest.fixture
def peer(machines: Machines) -> Iterator[MachinePeer]:
    """An empty machine of this case's own."""
    with machines.take() as peer:
        yield peer


@pytest.fixture
def actor(shared_peer: Callable[[], MachinePeer]) -> MachinePeer:
    """A machine with the actor, which other cases have sent messages to."""
    return shared_peer()


def count(actor: MachinePeer) -> int:
    """Return the actor's state."""
    return int(actor.invoke("state").payload)


def failure_of(reply: Replied) -> link.Failure:
    """Return the failure that a reply must carry."""
    assert reply.failure is not None, reply.payload[:100]
    return reply.failure


# ---- the artifact ---------------------------------------------------------------------------


def test_build_makes_an_actor(built: Built, language: str) -> None:
    """An ordinary project becomes an actor component, by `plexspaces build` alone."""
    assert (built.result.language, built.result.kind) == (language, ArtifactKind.ACTOR)


# ---- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 100_000, MESSAGE_LIMIT])
def test_echo_of_any_size_returns_the_same_bytes(actor: MachinePeer, size: int) -> None:
    """A payload with every byte value comes back unchanged, from none up to the cap."""
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    reply = actor.invoke("echo", payload, timeout_s=actor.seconds(15))
    assert (reply.failure, reply.payload) == (None, payload)


def test_text_is_utf8_in_both_directions(actor: MachinePeer) -> None:
    """Letters of several alphabets, and one beyond the first 65,536, are texts on both sides."""
    assert actor.invoke("upper", TEXT.encode()).payload.decode() == TEXT.upper()
    assert failure_of(actor.invoke("fail", TEXT.encode())).message == TEXT
    assert actor.invoke("sender").payload == b"tester"


def test_many_large_messages_leave_the_heap_whole(actor: MachinePeer) -> None:
    """Collecting garbage while the host writes into the actor's memory damages nothing."""
    actor.host_answers[link.Get] = Given(bytes(1000))
    for number in range(actor.repeated(200)):
        payload = bytes([number]) * 100_000
        assert actor.invoke("echo", payload).payload == payload
        assert actor.invoke("get", b"key").payload == bytes(1000)
        assert actor.invoke("upper", b"abc" * 1000).payload == b"ABC" * 1000


def test_thousands_of_messages_do_not_grow_the_machine(actor: MachinePeer) -> None:
    """Nothing of a message is kept: the memory at the end is that after the first tenth."""
    times = actor.repeated(10_000)
    # So long that the payloads alone, were they kept, would be more than is allowed.
    payload = bytes(max(100, 6 * MIB // times))

    def send(times: int) -> None:
        for _ in range(times):
            assert actor.invoke("echo", payload).payload == payload

    send(times // 10)
    before = actor.rss_bytes()
    send(times - times // 10)
    assert actor.rss_bytes() - before < 4 * MIB


# ---- state ----------------------------------------------------------------------------------


def test_state_over_a_thousand_messages_is_exact(actor: MachinePeer) -> None:
    """One instance handles them all, one at a time, and forgets nothing."""
    before, times = count(actor), actor.repeated(1000)
    for number in range(1, times + 1):
        assert actor.invoke("count").payload == b"%d" % (before + number)
    assert count(actor) == before + times


def test_state_comes_back_from_the_snapshot_of_a_stop(machines: Machines, built: Built) -> None:
    """A new actor counts from 0; stopped in good order it leaves a snapshot; init restores it."""
    with machines.take() as first:
        load(first, built)
        assert count(first) == 0
        for _ in range(3):
            first.invoke("count")
        first.stop()
        [snapshot] = first.states()
    with machines.take() as second:
        load(second, built, snapshot)
        assert count(second) == 3
        assert second.invoke("count").payload == b"4"


def test_init_with_a_snapshot_of_something_else_says_why(peer: MachinePeer, built: Built) -> None:
    """A state the actor cannot read fails the start with its own words, and not silently."""
    answer = peer.load(built.code, state=b"\xff\x00not a state", memory_bytes=MEMORY_BYTES)
    assert isinstance(answer, link.Failed)
    assert (answer.failure.origin, answer.failure.code) == (ACTOR, "init")
    assert len(answer.failure.message) > len("init: ")


# ---- what goes wrong ------------------------------------------------------------------------


def test_error_record_reaches_the_caller_and_the_state_lives_on(actor: MachinePeer) -> None:
    """Code, message and whether to retry arrive as given; the instance is the same."""
    before = int(actor.invoke("count").payload)
    failure = failure_of(actor.invoke("fail", b"not today"))
    assert failure == link.Failure(origin=ACTOR, code="asked", message="not today", retryable=True)
    assert count(actor) == before


def test_unknown_message_type_names_the_known_ones(actor: MachinePeer) -> None:
    """A type without a handler is an error record that helps."""
    failure = failure_of(actor.invoke("no-such-type"))
    assert (failure.origin, failure.code, failure.retryable) == (ACTOR, "unknown-message", False)
    assert "no-such-type" in failure.message
    assert all(known in failure.message for known in ("echo", "count", "hoard"))


def test_payload_that_is_not_what_the_handler_takes_is_an_error_record(actor: MachinePeer) -> None:
    """What is no JSON is refused by the SDK, before the handler."""
    failure = failure_of(actor.invoke("put", b"{not json"))
    assert (failure.origin, failure.code) == (ACTOR, "bad-payload")


def test_throw_is_told_to_the_caller_and_the_next_message_is_answered(
    actor: MachinePeer, built: Built
) -> None:
    """A panic, throw or exception shows its message, and costs at most the instance."""
    before = int(actor.invoke("count").payload)
    failure = failure_of(actor.invoke("throw", b"what"))
    assert failure.code == built.expected.thrown
    assert "boom: what" in failure.message
    assert count(actor) == (before if built.expected.survives else 0)
    # The SDK logs what it caught; what it cannot catch, the language itself writes to stderr.
    where = ("log", "error") if built.expected.survives else ("stderr", "warn")
    said = [line for line in actor.lines() if (line.stream, line.level) == where]
    assert any("boom: what" in line.message for line in said)


def test_endless_loop_is_stopped_by_its_deadline(actor: MachinePeer) -> None:
    """The caller hears of it when the time is over, and the next message is answered."""
    begin = time.monotonic()
    failure = failure_of(actor.invoke("loop", timeout_s=0.3))
    took = time.monotonic() - begin
    assert (failure.origin, failure.code) == (PLATFORM, "deadline_exceeded")
    assert 0.3 <= took < actor.seconds(10)
    assert actor.invoke("echo", b"x").payload == b"x"


def test_memory_bomb_is_stopped_by_the_cap(actor: MachinePeer) -> None:
    """No more memory is taken than was given, and the next message is answered."""
    before = actor.rss_bytes()
    failure = failure_of(actor.invoke("hoard", timeout_s=actor.seconds(15)))
    assert failure.origin == TRAP or failure.code == "exception", failure
    # A trap is told by the program's functions, which a build must not take out.
    assert failure.origin != TRAP or ", in function " not in failure.message
    assert actor.rss_bytes() - before < MEMORY_BYTES + SLACK_BYTES
    assert actor.invoke("echo", b"x", timeout_s=actor.seconds(15)).payload == b"x"


# ---- the host -------------------------------------------------------------------------------


def test_log_arrives_with_its_level(actor: MachinePeer) -> None:
    """A line of the log is the text that was logged, whole."""
    assert actor.invoke("log", TEXT.encode()).payload == b""
    assert [(log.level, log.message) for log in actor.lines() if log.stream == "log"] == [
        ("info", TEXT)
    ]


def test_log_line_carries_the_trace_of_its_message(actor: MachinePeer) -> None:
    """Without a word of the application's; what it asks of its host names the message too."""
    for traceparent in (f"00-{TRACE_ID}-b7ad6b7169203331-01", "", "00-not-a-trace-01"):
        assert actor.invoke("log", TEXT.encode(), traceparent=traceparent).payload == b""
    lines = [line for line in actor.lines() if line.stream == "log"]
    assert [(line.message, line.trace_id) for line in lines] == [
        (TEXT, TRACE_ID),
        (TEXT, ""),
        (TEXT, ""),
    ]
    asked = actor.post("get", b"key", traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
    assert actor.reply().id == asked
    assert [get.invoke for get in actor.of(link.Get)] == [asked]


def test_environment_is_the_applications_own(actor: MachinePeer) -> None:
    """Variables of the deploy are there; those of the builder and of the host are not."""
    assert actor.invoke("env", b"GREETING").payload == b"hello"
    assert actor.invoke("env", b"PATH").payload == b""


def test_clock_is_the_hosts(actor: MachinePeer) -> None:
    """The time is now, and goes on."""
    # A machine with a kernel of its own was told the time when its agent said hello.
    fault_ms = 0 if actor.level == "process" else 500
    before_ms = time.time_ns() // 1_000_000
    first, second = (int(actor.invoke("now").payload) for _ in range(2))
    after_ms = time.time_ns() // 1_000_000
    assert before_ms - fault_ms <= first <= second <= after_ms + fault_ms


def test_random_differs_each_time_and_in_each_instance(
    actor: MachinePeer, built: Built, peer: MachinePeer
) -> None:
    """No two draws are alike, also not those of two instances of one artifact."""
    load(peer, built)
    draws = [each.invoke("random").payload for each in (actor, actor, peer, peer)]
    assert [len(bytes.fromhex(draw.decode())) for draw in draws] == [16] * 4
    assert len(set(draws)) == 4


def test_primes_are_those_the_host_finds(actor: MachinePeer) -> None:
    """The workload's reply is the same number in every language."""
    for limit in (0, 1, 2, 3, 10, 20_000):
        reply = actor.invoke("primes", primes_payload(limit), timeout_s=actor.seconds(15))
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


async def state_of(client: NodeClient, name: str) -> int:
    """Return the state of an application."""
    return int((await client.invoke(name, type="state")).payload)


@pytest.mark.usefixtures("applications")
class TestOnANode:
    """Every case finds `one`, `two` and `three` running and `stopped` stopped, and leaves them so.

    Other cases have sent them messages.
    """

    async def test_language_is_read_from_the_artifact(
        self, client: NodeClient, language: str
    ) -> None:
        """Nobody has to say what an actor was written in."""
        info = await client.inspect("one")
        assert (info.language, info.kind) == (language, ArtifactKind.ACTOR)

    async def test_keyvalue_keeps_what_was_put(self, client: NodeClient) -> None:
        """Put, get, replace and delete; a key that is not there; all of it beyond a restart."""

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

    async def test_state_survives_stop_and_start(self, client: NodeClient) -> None:
        """What was counted before a stop is there after the start, in a new machine."""
        before = await state_of(client, "one")
        for _ in range(3):
            await client.invoke("one", type="count")
        assert (await client.stop("one")).state is ApplicationState.STOPPED
        assert (await client.start("one")).state is ApplicationState.RUNNING
        assert await state_of(client, "one") == before + 3

    async def test_tell_is_handled_by_the_other(self, client: NodeClient) -> None:
        """What was told is handled before what comes after it, and by nobody else."""
        before = [await state_of(client, name) for name in ("one", "two")]
        for _ in range(2):
            told = await client.invoke("one", message("two", "count"), type="tell")
            assert told.payload == b"told"
        assert await state_of(client, "two") == before[1] + 2
        assert await state_of(client, "one") == before[0]

    async def test_ask_brings_the_others_answer(self, client: NodeClient) -> None:
        """The reply comes back as it was given; asks may be nested; the sender is who asks."""

        async def ask(payload: bytes) -> str:
            return (await client.invoke("one", payload, type="ask")).payload.decode()

        assert await ask(message("two", "upper", TEXT)) == TEXT.upper()
        assert await ask(message("two", "sender")) == "one"
        inner = message("three", "sender").decode()
        assert await ask(message("two", "ask", inner)) == "two"
        assert await ask(message("two", "echo", "x" * 100_000)) == "x" * 100_000

    async def test_ask_and_tell_cross_languages(self, client: NodeClient, tmp_path: Path) -> None:
        """An actor of no language at all, written by hand, is asked and asks."""
        other = tmp_path / "probe.wasm"
        other.write_bytes(probe())
        async with deployed(client, other, "probe"):
            asked = await client.invoke("one", message("probe", "who"), type="ask")
            assert asked.payload == b"one"
            await client.invoke("one", message("probe", "c"), type="tell")
            assert (await client.invoke("probe", type="c")).payload == (2).to_bytes(4, "little")
            # The probe sends types of one byte only, which no language's actor knows.
            with pytest.raises(ActorFailed) as error:
                await client.invoke("probe", routed("one", "x"), type="a")
            assert error.value.code == "unknown-message"

    async def test_ask_carries_the_others_error_record(self, client: NodeClient) -> None:
        """Left alone, the record an ask was answered with is the answer of the actor that asked."""
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
        self, client: NodeClient, machines: Machines, to: str, type: str, data: str, code: str
    ) -> None:
        """Whoever cannot answer is told by a code of its own; nothing waits for ever."""
        timeout_ms = int(patient(500) * machines.slowness**0.5)
        with pytest.raises(ActorFailed) as error:
            await client.invoke("one", message(to, type, data, timeout_ms=timeout_ms), type="ask")
        assert error.value.code == code
        assert (await client.invoke("one", b"alive", type="echo")).payload == b"alive"

    async def test_tell_to_a_stopped_application_is_an_error_record(
        self, client: NodeClient
    ) -> None:
        """A message that cannot be queued is not lost in silence."""
        with pytest.raises(ActorFailed) as error:
            await client.invoke("one", message("stopped", "count"), type="tell")
        assert error.value.code == "wrong-state"
        with pytest.raises(WrongState):
            await client.invoke("stopped", type="count")

    async def test_throw_is_in_the_log_of_the_application(self, client: NodeClient) -> None:
        """Where an exception came from can be read afterwards."""
        with pytest.raises(ActorError, match="boom: who"):
            await client.invoke("one", b"who", type="throw")
        lines = [line.message async for line in client.logs("one")]
        assert any("boom: who" in line for line in lines)


# ---- what `plexspaces new` makes ------------------------------------------------------------


@pytest.fixture(scope="session")
def new_wasm(
    language: str, artifact: BuildResult, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A new project's artifact; after `artifact`, so that a missing compiler skips."""
    assert artifact.language == language
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
