"""What a client learns of what applications do."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf.message import Message
from support.fake_node import FakeNode
from support.fake_telemetry import CHAIN, MS, NODE, activity
from support.patience import patient

from plexspaces_node import telemetry
from plexspaces_node.api.convert_telemetry import record
from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import InvalidArgument, NotFound, Unavailable
from plexspaces_node.telemetry import SpanKind, TimeSpent

RECORDS = {
    telemetry.ActivityUpdate: pb.WatchActivityResponse,
    telemetry.TimeSpent: pb.TimeSpent,
    telemetry.ApplicationActivity: pb.ApplicationActivity,
    telemetry.NodeActivity: pb.NodeActivity,
    telemetry.ActivityReport: pb.GetActivityResponse,
    telemetry.Moment: pb.Moment,
    telemetry.TypeActivity: pb.TypeActivity,
    telemetry.AskActivity: pb.AskActivity,
    telemetry.Start: pb.Start,
    telemetry.Phase: pb.Phase,
    telemetry.MessageFailure: pb.MessageFailure,
    telemetry.Trace: pb.Trace,
    telemetry.Span: pb.Span,
    telemetry.Bill: pb.Bill,
    telemetry.Hop: pb.Hop,
    telemetry.AdviceReport: pb.AdviseResponse,
    telemetry.Advice: pb.Advice,
    telemetry.Fact: pb.Fact,
}


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node that serves."""
    with FakeNode() as running:
        yield running


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[NodeClient]:
    """A client connected to it."""
    async with NodeClient(node.address) as opened:
        yield opened


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: str(kind.__name__))
def test_record_when_compared_with_the_contract_then_the_same_fields(kind: Any) -> None:
    """What the contract has can be read, and nothing else is made up; an empty message too."""
    message: type[Message] = RECORDS[kind]
    fields = [field.name for field in dataclasses.fields(kind)]
    assert fields == [field.name for field in message.DESCRIPTOR.fields]
    assert isinstance(record(kind, message()), kind)


def test_kinds_when_compared_with_the_contract_then_the_same() -> None:
    """Each kind of span has its word, and one of a later version is told as unknown."""
    spans = [pb.Span(kind=number) for number in pb.Span.Kind.values()]
    assert [record(telemetry.Span, span).kind for span in spans] == list(SpanKind)
    later = pb.Span.FromString(bytes([3 << 3, 99]))
    assert record(telemetry.Span, later).kind is SpanKind.UNSPECIFIED


def test_time_spent_when_added_up_then_all_but_compute_is_coordination() -> None:
    """The four parts are the total."""
    spent = TimeSpent(messages=1, compute_ns=1, wait_ns=2, queue_ns=4, link_ns=8)
    assert (spent.coordination_ns, spent.total_ns) == (14, 15)


async def test_watch_when_there_are_updates_then_each_is_told(
    client: NodeClient, node: FakeNode
) -> None:
    """What it asks for is what it says, and what the node tells arrives."""
    gone = pb.WatchActivityResponse(removed=["calc"])
    first = pb.WatchActivityResponse(applications=[activity("calc")], node=NODE, time_unix_ns=7)
    node.telemetry.updates = [first, gone]
    updates = [update async for update in client.watch_activity(tenant="shop", interval_s=0.5)]
    assert node.telemetry.requests == [pb.WatchActivityRequest(tenant="shop", interval_ms=500)]
    assert updates[0].node is not None
    assert (updates[0].node.node_id, updates[0].time_unix_ns) == ("fake-1", 7)
    (told,) = updates[0].applications
    assert (told.name, told.p99_ns, told.recent.coordination_ns) == ("calc", 44 * MS, 100 * MS)
    assert (updates[1].applications, updates[1].removed, updates[1].node) == ((), ("calc",), None)


async def test_watch_when_closed_then_the_call_ends(client: NodeClient, node: FakeNode) -> None:
    """A node does not go on telling one who has left."""
    node.telemetry.updates, node.telemetry.stays = [pb.WatchActivityResponse()], True
    async with aclosing(client.watch_activity()) as updates:
        await anext(updates)
    assert node.telemetry.left.wait(patient(10))


@pytest.mark.parametrize("interval_s", [0, -1, 1e9])
async def test_watch_when_the_interval_is_none_then_nothing_is_asked(
    client: NodeClient, node: FakeNode, interval_s: float
) -> None:
    """0 would be the node's default."""
    with pytest.raises(InvalidArgument, match="interval"):
        await anext(client.watch_activity(interval_s=interval_s))
    assert node.calls == []


async def test_activity_when_asked_then_what_one_has_done(client: NodeClient) -> None:
    """Everything in records, as deep as it goes."""
    report = await client.activity("shop/calc")
    assert report.application.name == "shop/calc"
    assert (report.asks[0].to, report.asks[0].asks, report.asks[0].answered) == ("stock", 3, 2)
    assert [phase.name for phase in report.starts[0].phases] == ["vm", "load"]


async def test_traces_when_asked_then_spans_and_the_bill(
    client: NodeClient, node: FakeNode
) -> None:
    """The hop to blame is the one that the node names."""
    node.telemetry.traces = [CHAIN]
    (trace,) = await client.traces("cart", slowest=True, trace_id="ab", limit=3)
    asked = pb.ListTracesRequest(name="cart", slowest=True, trace_id="ab", limit=3)
    assert node.telemetry.requests == [asked]
    assert [(span.kind, span.name) for span in trace.spans] == [
        (SpanKind.MESSAGE, "pay"),
        (SpanKind.ASK, "take"),
    ]
    assert trace.bill.to_blame is trace.bill.hops[1]
    assert trace.bill.to_blame.coordination_ns == 52 * MS
    assert record(telemetry.Bill, pb.Bill(blame=3)).to_blame is None


async def test_advise_when_asked_then_advice_and_what_lacks_data(
    client: NodeClient, node: FakeNode
) -> None:
    """Of one application, or of all."""
    report = await client.advise("cart")
    assert (report.advice[0].application, report.advice[0].facts[0].value) == ("cart", 80)
    assert report.insufficient == ("stock: 3 messages",)
    await client.advise(tenant="shop")
    assert node.telemetry.requests[1] == pb.AdviseRequest(tenant="shop")


async def test_calls_when_they_fail_then_our_errors(client: NodeClient, node: FakeNode) -> None:
    """What the node says, and what cannot be asked."""
    node.fail |= dict.fromkeys(("GetActivity", "ListTraces", "Advise"), NotFound("there is none"))
    node.fail["WatchActivity"] = Unavailable("the node ends")
    for call in (client.activity("calc"), client.traces("calc"), client.advise("calc")):
        with pytest.raises(NotFound, match="there is none"):
            await call
    with pytest.raises(Unavailable, match="the node ends"):
        await anext(client.watch_activity())
    before = list(node.calls)
    for wrong in (client.activity("../x"), client.traces("a", limit=-1), client.advise("A B")):
        with pytest.raises(InvalidArgument):
            await wrong
    assert node.calls == before
