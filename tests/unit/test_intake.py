"""Messages that come while an application has no agent: they wait in order, and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from plexspaces_node.errors import PlexSpacesError, ResourceExhausted, Unavailable, WrongState
from plexspaces_node.link import frames as link
from plexspaces_node.model import ArtifactKind
from plexspaces_node.node.applications import message_times, messages
from plexspaces_node.node.applications.intake import HOLD_S, Intake
from plexspaces_node.node.applications.messages import Messages
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.machines import exchanges
from plexspaces_node.node.machines.agent_client import IN_FLIGHT_BYTES
from plexspaces_node.node.machines.exchanges import Exchange
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.node.machines.pending import Done
from plexspaces_node.node.telemetry import activity
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.span import Kind, Span
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.quota import Key, Subject
from plexspaces_node.settings import LimitsSection
from plexspaces_node.tasks import Leave

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS

pytestmark = pytest.mark.virtual_time


class Agent:
    """Takes messages and answers them soon.

    Attributes:
        got: the types of messages, with their timeouts.
        left: the types of those whose senders left.
        exchanges: requests, which a test answers.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []
        self.left: list[str] = []
        self.exchanges: list[Exchange] = []
        self.error: PlexSpacesError | None = None

    def post(
        self,
        done: Done,
        *,
        sender: str,
        msg_type: str,
        payload: bytes,
        timeout_ns: int,
        span: Span,
    ) -> Leave:
        del sender, span
        if self.error is not None:
            raise self.error
        self.got.append((msg_type, timeout_ns))
        answer = link.Reply(compute_ns=1), payload
        answering = asyncio.get_running_loop().call_soon(done, answer)

        def leave() -> None:
            answering.cancel()
            self.left.append(msg_type)

        return leave

    def exchange(
        self, head: link.RequestHead, body: bytes, timeout_ns: int, replied: Done, *, span: Span
    ) -> Exchange:
        del body, span
        self.got.append((head.path, timeout_ns))
        message: Any = SimpleNamespace(id=1, prolong=lambda now_s: None)
        room = partial(asyncio.sleep, 0)
        exchange = Exchange(lambda frame, body: None, room, replied, sent=0)
        leave = partial(self.left.append, head.path)
        exchange.sent_as(message, leave=leave, complete=lambda: None, over=lambda: None)
        self.exchanges.append(exchange)
        return exchange


class World:
    """One application, whose intake a test opens and closes."""

    def __init__(self) -> None:
        self.agent: Any = Agent()
        self.in_flight = InFlight()
        self.notes: list[str] = []
        self.refused: PlexSpacesError = WrongState("stopped")
        limits = AgentLimits("n", 1024, in_flight_limit=4, in_flight=self.in_flight)
        self.intake = Intake(lambda: self.refused, limits)
        self.activity = Activity("app", Telemetry())
        self.quotas = Quotas()
        self.record = SimpleNamespace(kind=ArtifactKind.ACTOR)
        supervisor = SimpleNamespace(
            record=self.record,
            intake=self.intake,
            lease=None,
            activity=self.activity,
            gate=self.quotas.gate("app"),
            journal=SimpleNamespace(note=lambda level, text: self.notes.append(text)),
        )
        roster: Any = SimpleNamespace(named=lambda name: supervisor)
        self.messages = Messages(LimitsSection(), roster)

    def send(self, msg_type: str, *, timeout_ns: int = MINUTE_NS) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.messages.invoke("app", msg_type, b"12", timeout_ns))

    async def waiting(self, *types: str) -> list[asyncio.Task[Any]]:
        """Send messages that wait."""
        sent = [self.send(each) for each in types]
        await asyncio.sleep(0)
        return sent

    def order(self) -> list[str]:
        return [msg_type for msg_type, _ in self.agent.got]


@pytest.fixture
async def world() -> World:
    """An application that is about to run."""
    world = World()
    world.intake.hold()
    return world


async def test_messages_that_waited_are_sent_in_the_order_in_which_they_came(world: World) -> None:
    """Those that come just then do not overtake them, and nothing is counted afterwards."""
    sent = await world.waiting("1")
    world.messages.tell("other", link.Tell(to="app", type="2"), b"12")
    sent += await world.waiting("3")
    assert world.in_flight.bytes == 6
    assert world.intake.agent is None
    late = world.send("4")
    world.intake.open(world.agent)
    await asyncio.gather(*sent, late)
    assert world.order() == ["1", "2", "3", "4"]
    assert world.intake.agent is world.agent
    assert world.in_flight.bytes == 0
    world.activity.settle()
    assert (world.activity.total.messages, world.activity.total.failures, world.notes) == (4, 0, [])


async def test_message_that_waited_has_the_rest_of_its_time_and_tells_the_wait_as_queue(
    world: World,
) -> None:
    """The wait is not compute, and takes from the timeout."""
    [sent] = await world.waiting("1")
    world.intake.open(world.agent)
    timings = (await sent).timings
    [(_, left_ns)] = world.agent.got
    assert left_ns < MINUTE_NS
    assert timings.queue_ns >= MINUTE_NS - left_ns
    assert timings.compute_ns == 1
    assert sum((timings.compute_ns, timings.wait_ns, timings.queue_ns)) <= timings.total_ns


@pytest.mark.parametrize(("timeout_ns", "wait_s"), [(2 * SECOND_NS, 2.0), (MINUTE_NS, HOLD_S)])
async def test_wait_ends_with_the_messages_timeout_or_the_limit(
    world: World, timeout_ns: int, wait_s: float
) -> None:
    """It was not handled, so the sender may try again."""
    loop, begin_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    world.refused = Unavailable("still starting")
    with pytest.raises(Unavailable, match="still starting"):
        await world.send("1", timeout_ns=timeout_ns)
    assert loop.time() - begin_s == pytest.approx(wait_s, abs=0.01)
    assert (world.in_flight.bytes, world.activity.total.failures) == (0, 1)
    world.intake.open(world.agent)
    await world.send("2")
    assert world.order() == ["2"]


async def test_more_than_the_mailbox_does_not_wait(world: World) -> None:
    """In number as in bytes, and together with what all applications have in flight."""
    sent = await world.waiting("1", "2", "3", "4")
    with pytest.raises(ResourceExhausted, match=r"too many messages wait.*\(4\)"):
        await world.send("5")
    for each in sent:
        each.cancel()
    await asyncio.gather(*sent, return_exceptions=True)
    place = world.intake.join(IN_FLIGHT_BYTES + 1, MINUTE_NS)
    with pytest.raises(ResourceExhausted, match="bytes"):
        await world.send("5")
    world.in_flight.limit_bytes = IN_FLIGHT_BYTES
    world.intake.leave(place)
    place = world.intake.join(IN_FLIGHT_BYTES, MINUTE_NS)
    with pytest.raises(ResourceExhausted, match="on this node"):
        await world.send("6")
    world.intake.leave(place)
    assert world.in_flight.bytes == 0


async def test_sender_that_leaves_ends_the_wait(world: World) -> None:
    """The message is not sent, or taken back if its turn has just come; those behind it are."""
    first, second, third = await world.waiting("1", "2", "3")
    first.cancel()
    await asyncio.sleep(0)
    world.intake.open(world.agent)
    second.cancel()
    await third
    assert (world.order(), world.agent.left) == (["2", "3"], ["2"])
    assert (first.cancelled(), second.cancelled()) == (True, True)
    assert (world.in_flight.bytes, world.intake.agent) == (0, world.agent)


async def test_sender_that_leaves_in_the_step_of_its_turn_sends_nothing(world: World) -> None:
    """Also where it says so itself, and is called back for nothing."""
    answers: list[object] = []
    leave = world.messages.post("app", "1", b"12", MINUTE_NS, answers.append)
    world.intake.open(world.agent)
    leave()
    await world.send("2")
    assert (world.order(), answers, world.activity.total.failures) == (["2"], [], 0)
    assert (world.in_flight.bytes, world.intake.agent) == (0, world.agent)


async def test_request_whose_client_leaves_in_the_step_of_its_turn_is_ended(world: World) -> None:
    """Nobody has its response: a stream would last for as long as the node."""
    head = link.RequestHead(path="/events")
    asking = asyncio.ensure_future(world.messages.exchange("app", head, b"", MINUTE_NS))
    await asyncio.sleep(0)
    world.intake.open(world.agent)
    asyncio.get_running_loop().call_soon(asking.cancel)
    await asyncio.gather(asking, return_exceptions=True)
    assert (asking.cancelled(), world.order(), world.agent.left) == (True, ["/events"], ["/events"])


@pytest.mark.parametrize(
    ("failure", "failures"),
    [
        (None, 0),
        (link.Failure(origin=link.Failure.ORIGIN_PLATFORM, code="cancelled"), 0),
        (link.Failure(origin=link.Failure.ORIGIN_ACTOR, code="cancelled"), 1),
    ],
    ids=["to its end", "until the client left", "an error of its own"],
)
async def test_stream_costs_what_it_computes_and_not_what_its_client_waits(
    world: World, failure: link.Failure | None, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of events that nobody computes is no hour of coordination."""
    loop = asyncio.get_running_loop()
    for module in (activity, message_times, messages, exchanges):
        monkeypatch.setattr(module, "perf_counter_ns", lambda: int(loop.time() * 1e9))
    world.intake.open(world.agent)
    head = link.RequestHead(path="/events")
    exchange = await world.messages.exchange("app", head, b"", MINUTE_NS)
    await asyncio.sleep(2)
    exchange.began(link.Response(id=1, compute_ns=SECOND_NS), b"")
    await asyncio.sleep(3600)
    exchange.leave()
    exchange.replied((link.Reply(id=1, compute_ns=3 * SECOND_NS, failure=failure), b""))
    world.activity.settle()
    spent = world.activity.spent
    assert (spent.messages, spent.failures) == (1, failures)
    assert (spent.compute_ns, spent.coordinate_ns) == (3 * SECOND_NS, SECOND_NS)


@pytest.mark.parametrize(("status", "failures"), [(200, 0), (404, 0), (503, 1)])
async def test_response_that_tells_an_error_of_the_server_is_a_failure(
    world: World, status: int, failures: int
) -> None:
    """So it is in the counters that an alert looks at; what its client did wrong is not."""
    world.intake.open(world.agent)
    exchange = await world.messages.exchange("app", link.RequestHead(path="/"), b"", MINUTE_NS)
    exchange.replied((link.Reply(id=1, response=link.ResponseHead(status=status)), b"busy"))
    world.activity.settle()
    assert (world.activity.total.messages, world.activity.total.failures) == (1, failures)
    codes = [failure.code for failure in world.activity.failures_kept]
    assert codes == ["http-503"] * failures


async def test_reply_that_comes_as_its_sender_is_cancelled_is_counted(world: World) -> None:
    """The message was handled, whoever still waits for it."""
    world.intake.open(world.agent)
    [sent] = await world.waiting("1")
    asyncio.get_running_loop().call_soon(sent.cancel)
    await asyncio.gather(sent, return_exceptions=True)
    world.activity.settle()
    assert (sent.cancelled(), world.activity.total.messages) == (True, 1)


async def test_application_that_stops_ends_the_wait_at_once(world: World) -> None:
    """With the error that one gets who comes then."""
    begin_s = asyncio.get_running_loop().time()
    [sent] = await world.waiting("1")
    world.messages.tell("other", link.Tell(to="app", type="2"), b"")
    world.intake.refuse()
    with pytest.raises(WrongState, match="stopped"):
        await sent
    with pytest.raises(WrongState, match="stopped"):
        await world.send("3")
    with pytest.raises(WrongState, match="stopped"):
        world.messages.tell("other", link.Tell(to="app", type="4"), b"")
    assert asyncio.get_running_loop().time() == begin_s
    assert world.notes == ["a message from 'other': stopped"]
    assert world.in_flight.bytes == 0


async def test_node_that_shuts_down_ends_the_wait_but_not_what_runs(world: World) -> None:
    """An application that is still there finishes, and may ask others."""
    [sent] = await world.waiting("1")
    world.intake.close()
    for each in (sent, world.send("2")):
        with pytest.raises(Unavailable, match="shutting down"):
            await each
    world.intake.open(world.agent)
    await world.send("3")
    assert world.order() == ["3"]


async def test_told_message_whose_turn_comes_as_the_agent_goes_is_in_the_log(world: World) -> None:
    """Nobody waits for it, so the log is where its loss can be seen."""
    world.messages.tell("other", link.Tell(to="app", type="1"), b"")
    world.agent.error = Unavailable("gone")
    world.intake.open(world.agent)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.notes == ["a message from 'other': gone"]
    assert (world.activity.total.failures, world.in_flight.bytes) == (1, 0)


async def test_component_that_is_told_something_gets_a_request(world: World) -> None:
    """Which waits as any, and whose failure is in the log."""
    world.record.kind = ArtifactKind.HTTP_COMPONENT
    world.messages.tell("other", link.Tell(to="app", type="greet"), b"x")
    await asyncio.sleep(1)
    world.intake.open(world.agent)
    await asyncio.sleep(1)
    [exchange] = world.agent.exchanges
    failed = link.ResponseHead(status=500)
    exchange.replied((link.Reply(id=1, response=failed), b"no greeting today"))
    await asyncio.sleep(1)
    assert world.order() == ["/greet"]
    assert world.notes == ["a message from 'other': no greeting today"]
    world.activity.settle()
    assert (world.activity.total.messages, world.in_flight.bytes) == (1, 0)


async def test_ask_that_is_for_no_message_is_answered_and_counted(world: World) -> None:
    """As those of an actor's `init`: most of them are not traced, and have no more than times."""
    world.intake.open(world.agent)
    for _ in range(40):
        await world.send("x")
    ask = link.Ask(to="app", type="price", timeout_ns=MINUTE_NS)
    for _ in range(5):
        assert await world.messages.ask("other", ask, b"x") == b"x"
    counted = world.activity.asks["app"]
    assert (counted.asks, counted.answered, counted.failures) == (5, 5, 0)
    assert counted.total_ns > 0


async def test_ask_of_a_component_is_counted_though_its_last_word_is_due(world: World) -> None:
    """Its response is whole, and that is when the asker has its answer."""
    world.record.kind = ArtifactKind.HTTP_COMPONENT
    world.intake.open(world.agent)
    ask = link.Ask(to="app", type="price", timeout_ns=MINUTE_NS)
    asking = asyncio.ensure_future(world.messages.ask("other", ask, b"x"))
    await asyncio.sleep(1)
    [exchange] = world.agent.exchanges
    head = link.ResponseHead(status=200)
    exchange.began(link.Response(id=1, head=head, compute_ns=1, last=True), b"12")
    assert await asking == b"12"
    counted = world.activity.asks["app"]
    assert (counted.answered, counted.compute_ns) == (1, 1)
    assert counted.total_ns > 0


async def test_bodies_that_go_in_parts_are_counted_as_a_whole(world: World) -> None:
    """Of a request and of a response; the last word of the agent has none of it."""
    world.intake.open(world.agent)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"12345"

    head = link.RequestHead(path="/up", more=True)
    exchange = await world.messages.exchange("app", head, b"123", MINUTE_NS)
    exchange.upload(pieces())
    exchange.began(link.Response(id=1), b"12")
    exchange.window(link.Window(id=1, bytes=1000))
    await asyncio.sleep(1)
    exchange.part(link.Part(id=1, last=True), b"1234")
    exchange.replied((link.Reply(id=1), b""))
    await exchange.aclose()
    world.activity.settle()
    [counted] = world.activity.types.values()
    assert (counted.payload_bytes, counted.reply_bytes) == (18, 6)


@pytest.mark.parametrize("kind", [ArtifactKind.ACTOR, ArtifactKind.HTTP_COMPONENT])
async def test_message_whose_sender_leaves_while_it_waits_ends_then_and_is_no_failure(
    world: World, kind: ArtifactKind
) -> None:
    """It is in no agent's hands, so that nothing else would tell the end of its span."""
    world.record.kind = kind
    sent = world.send("1")
    await asyncio.sleep(2)
    sent.cancel()
    await asyncio.gather(sent, return_exceptions=True)
    world.intake.open(world.agent)
    await asyncio.sleep(1)
    assert (world.activity.total.messages, world.activity.total.failures) == (0, 0)
    [span] = world.activity.traces.newest()
    assert span.total_ns == span.queue_ns > 0
    assert (world.order(), world.in_flight.bytes) == ([], 0)


async def test_spans_of_a_component_say_whether_somebody_waits_for_them(world: World) -> None:
    """What is told costs its sender no wait, so that it is not on the bill of an ask."""
    world.record.kind = ArtifactKind.HTTP_COMPONENT
    root = world.activity.begin(Kind.MESSAGE, "order", 0)
    root.identify()
    world.messages.tell("other", link.Tell(to="app", type="greet"), b"", root)
    ask = link.Ask(to="app", type="price", timeout_ns=MINUTE_NS)
    asking = asyncio.ensure_future(world.messages.ask("other", ask, b"", root))
    await asyncio.sleep(1)
    children = [child for child in root.children or () if isinstance(child, Span)]
    assert [(child.name, child.kind) for child in children] == [
        ("POST /greet", Kind.TELL),
        ("POST /price", Kind.ASK),
    ]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_quota_when_used_up_then_every_way_into_the_application_is_refused(
    world: World,
) -> None:
    """Messages, what another application tells, and requests to a component, of which none is sent.

    The message that a component gets as a request is counted once.
    """
    world.quotas.change(Subject("default", "app"), {Key.MESSAGES_PER_S: 2})
    sent = await world.waiting("1", "2")
    with pytest.raises(ResourceExhausted, match="messages_per_s=2"):
        await world.messages.invoke("app", "3", b"", MINUTE_NS)
    with pytest.raises(ResourceExhausted, match="messages_per_s=2"):
        world.messages.tell("other", link.Tell(to="app", type="4"), b"")
    world.record.kind = ArtifactKind.HTTP_COMPONENT
    with pytest.raises(ResourceExhausted, match="messages_per_s=2"):
        await world.messages.exchange("app", link.RequestHead(), b"", MINUTE_NS)
    world.quotas.change(Subject("default", "app"), {Key.MESSAGES_PER_S: 1})
    message = world.send("5")
    world.intake.open(world.agent)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.order() == ["1", "2", "/5"]
    await asyncio.gather(*sent)
    message.cancel()
    await asyncio.gather(message, return_exceptions=True)
