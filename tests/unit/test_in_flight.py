"""The payloads of a whole node: how many there may be, and that memory is given back after them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.patience import patient

from plexspaces_node.api.invoke import LONG_BYTES, Request
from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.info import MessageTimings
from plexspaces_node.model import MIB
from plexspaces_node.node.api.service import ApplicationService, ServiceLimits
from plexspaces_node.node.applications.outcome import Outcome
from plexspaces_node.node.machines.in_flight import (
    BURST_BYTES,
    InFlight,
    default_bytes,
    give_back_memory,
)


def test_payload_when_there_is_no_room_then_the_bound_is_named() -> None:
    """Whoever is refused learns which of the bounds it was, and how to raise it."""
    in_flight = InFlight(100)
    in_flight.add(60)
    in_flight.check(40)
    with pytest.raises(ResourceExhausted, match="on this node: 41 bytes") as caught:
        in_flight.check(41)
    assert "[limits] in_flight_bytes" in (caught.value.hint or "")
    in_flight.remove(60)
    in_flight.check(100)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_payload_when_applications_want_all_then_there_is_room_for_the_next(size: int) -> None:
    """However many they are, and however long their messages."""
    in_flight, held = InFlight(1000), dict.fromkeys(range(9), 0)
    for _ in range(1000):
        for application, bytes_ in held.items():
            try:
                in_flight.check(size, held=bytes_)
            except ResourceExhausted:
                continue
            in_flight.add(size)
            held[application] += size
    assert in_flight.bytes > 600
    assert max(held.values()) <= in_flight.limit_bytes - in_flight.bytes
    in_flight.check(1, held=0)


def test_payload_when_a_tenant_has_many_applications_then_there_is_room_for_others() -> None:
    """It counts as one, however many it has; alone on a node each application counts."""
    in_flight = InFlight(1000)
    greedy = in_flight.share_of("shop")
    greedy.add(400)
    greedy.check(200, held=100)
    other = in_flight.share_of("rival")
    with pytest.raises(ResourceExhausted):
        greedy.check(200, held=100)
    other.check(200, held=0)
    other.add(200)
    assert (greedy.bytes, other.bytes, in_flight.bytes) == (400, 200, 600)
    greedy.remove(400)
    assert (greedy.bytes, in_flight.bytes) == (0, 200)
    assert in_flight.share_of("shop") is greedy


def test_payload_when_it_is_alone_then_it_passes_whatever_its_length() -> None:
    """A bound below the longest message does not forbid that message."""
    InFlight(100).check(1000)


class Calls:
    """Counts calls that come from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._made = asyncio.Semaphore(0)
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        self._loop.call_soon_threadsafe(self._made.release)

    async def made(self) -> None:
        async with asyncio.timeout(patient(10)):
            await self._made.acquire()


async def test_memory_when_a_burst_is_over_then_it_is_given_back_twice() -> None:
    """Soon, and again for what is freed late; then not before the next burst."""
    calls = Calls()
    in_flight = InFlight(give_back=calls, calm_s=(0.0, 0.0))
    for burst in (1, 2):
        for _ in range(4):
            in_flight.add(BURST_BYTES)
        for _ in range(4):
            in_flight.remove(BURST_BYTES)
        await calls.made()
        await calls.made()
        assert calls.count == 2 * burst
    assert in_flight._timer is None


async def test_memory_when_messages_are_few_then_nothing_is_done() -> None:
    """One after the other they cost nothing that would have to be given back."""
    in_flight = InFlight(give_back=Calls())
    for _ in range(100):
        in_flight.add(BURST_BYTES // 2)
        in_flight.remove(BURST_BYTES // 2)
    assert in_flight._timer is None


@pytest.mark.parametrize(("host_mib", "mib"), [(2_000, 64), (24_000, 375)])
def test_default_when_a_host_is_small_then_it_is_not_nothing(host_mib: int, mib: int) -> None:
    """A 64th of the memory, and enough for some long messages anywhere."""
    assert default_bytes(host_mib) == mib * MIB


def test_give_back_when_called_then_it_does_no_harm() -> None:
    """It can be called at any time, also where there is nothing to give."""
    give_back_memory()


async def test_reply_when_it_is_long_then_it_counts_until_it_is_taken() -> None:
    """A client that does not read its replies takes room from new messages."""
    reply, in_flight, ends = b"x" * (2 * LONG_BYTES), InFlight(), list[Any]()

    async def invoke(*request: Any, caller: Any) -> Outcome:
        return Outcome(reply, None, MessageTimings(1, 1, 0, 0))

    service = ApplicationService(
        cast_any(SimpleNamespace(invoke=invoke)),
        cast_any(None),
        cast_any(None),
        ServiceLimits(1.0, in_flight),
        cast_any(None),
    )
    context: Any = SimpleNamespace(
        name="one",
        identity=None,
        traceparent="",
        add_done_callback=ends.append,
        peer=lambda: "ipv4:1",
    )
    encoded = await service.Invoke(Request("one", "", b"", 10), context)
    assert in_flight.bytes == len(encoded) > len(reply)
    for end in ends:
        end(context)
    assert in_flight.bytes == 0


async def test_reply_when_a_connection_takes_none_then_it_is_refused_and_others_are_not() -> None:
    """Nobody fills with replies the room that is everybody's."""
    reply, ends = b"x" * (2 * LONG_BYTES), list[Any]()

    async def invoke(*request: Any, caller: Any) -> Outcome:
        return Outcome(reply, None, MessageTimings(1, 1, 0, 0))

    service = ApplicationService(
        cast_any(SimpleNamespace(invoke=invoke)),
        cast_any(None),
        cast_any(None),
        ServiceLimits(1.0, InFlight(5 * len(reply))),
        cast_any(None),
    )
    greedy: Any = SimpleNamespace(
        name="one",
        identity=None,
        traceparent="",
        add_done_callback=ends.append,
        peer=lambda: "ipv4:1",
    )
    other: Any = SimpleNamespace(
        name="one",
        identity=None,
        traceparent="",
        add_done_callback=lambda _: None,
        peer=lambda: "ipv4:2",
    )
    request = Request("one", "", b"", 10)
    for _ in range(3):
        await service.Invoke(request, greedy)
    with pytest.raises(ResourceExhausted, match="bytes of unread replies"):
        await service.Invoke(request, greedy)
    await service.Invoke(request, other)
    ends[0](greedy)
    await service.Invoke(request, greedy)


def cast_any(value: object) -> Any:
    """Let a stand-in pass for what it stands for."""
    return value
