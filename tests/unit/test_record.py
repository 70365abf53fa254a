"""What calls leave in the audit log: what they did, how they ended, and who was refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from plexspaces_node.errors import NotFound, PermissionDenied, Unauthenticated
from plexspaces_node.node.access.audit import Event
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.access.identity import LOCAL, Identity, Kind, Scope
from plexspaces_node.node.access.policy import RULES, Target
from plexspaces_node.node.access.record import Recorder, address_of

STOP = "plexspaces.node.v1.ApplicationService/Stop"
CI = Identity(Kind.TOKEN, "ci", frozenset({Scope.DEPLOY}), "shop")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def recorder(events: list[Event]) -> Recorder:
    return Recorder(events.append)


def call(identity: Identity = CI, target: Target | None = None) -> Call:
    about = target or Target("shop", "shop/cart")
    return Call(
        identity, about, peer="ipv4:10.0.0.7:4711", left_s=lambda: None, done=lambda _: None
    )


async def test_call_when_it_is_done_then_noted(recorder: Recorder, events: list[Event]) -> None:
    """Who, from where, what, on what, how it ended and how long it took."""

    async def stop(request: Any, call: Call) -> str:
        return str(request)

    assert await recorder.recorded(STOP, RULES[STOP], stop)("reply", call()) == "reply"
    (event,) = events
    assert (event.kind, event.who, event.address) == ("token", "ci", "10.0.0.7")
    assert (event.tenant, event.verb) == ("shop", "ApplicationService/Stop")
    assert (event.object, event.result, event.refused) == ("shop/cart", "ok", False)
    assert event.duration_ns > 0


async def test_call_when_it_fails_then_noted_with_its_code(
    recorder: Recorder, events: list[Event]
) -> None:
    """And the error goes on."""

    async def stop(request: Any, call: Call) -> None:
        raise request

    perform = recorder.recorded(STOP, RULES[STOP], stop)
    with pytest.raises(NotFound):
        await perform(NotFound("x"), call())
    with pytest.raises(ZeroDivisionError):
        await perform(ZeroDivisionError(), call())
    with pytest.raises(asyncio.CancelledError):
        await perform(asyncio.CancelledError(), call())
    assert [event.result for event in events] == ["not_found", "internal", "cancelled"]


async def test_stream_when_it_ends_then_noted_once(recorder: Recorder, events: list[Event]) -> None:
    """Not when it begins; one that its reader leaves is cancelled."""

    async def deploy(request: Any, call: Call) -> AsyncIterator[int]:
        yield 1
        yield 2

    replies = recorder.recorded(STOP, RULES[STOP], deploy)
    async for _ in replies(None, call()):
        assert not events
    left = replies(None, call())
    await anext(left)
    await left.aclose()
    assert [event.result for event in events] == ["ok", "cancelled"]


async def test_call_that_only_reads_when_made_then_not_noted(recorder: Recorder) -> None:
    """Nothing is even between it and its caller."""

    async def look(request: Any, call: Call) -> None: ...

    verb = "plexspaces.node.v1.ApplicationService/List"
    assert recorder.recorded(verb, RULES[verb], look) is look


@pytest.mark.parametrize(
    ("identity", "target", "tenant"),
    [(CI, Target(), "shop"), (LOCAL, Target("shop", "shop/cart"), "shop"), (LOCAL, Target(), "")],
)
async def test_call_when_noted_then_for_the_admin_of_its_tenant(
    recorder: Recorder, events: list[Event], identity: Identity, target: Target, tenant: str
) -> None:
    """What one of all tenants does to a tenant, its admin sees; what is the node's, nobody else."""

    async def act(request: Any, call: Call) -> None: ...

    await recorder.recorded(STOP, RULES[STOP], act)(
        SimpleNamespace(vm_id="vm-1"), call(identity, target)
    )
    assert events[0].tenant == tenant
    assert events[0].object == (target.application or "vm-1")


def test_refusal_when_noted_then_with_what_is_known(
    recorder: Recorder, events: list[Event]
) -> None:
    """Of somebody unknown that is only where they are."""
    recorder.refused(Unauthenticated("x"), STOP, peer="ipv6:%5B::1%5D:9")
    recorder.refused(PermissionDenied("x"), STOP, peer="[::1]:9", identity=CI, about="rival/x")
    assert [(e.kind, e.who, e.tenant, e.result) for e in events] == [
        ("anonymous", "anonymous", "", "unauthenticated"),
        ("token", "ci", "shop", "permission_denied"),
    ]
    assert {event.address for event in events} == {"::1"}
    assert all(event.refused for event in events)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5", "::1"),
        ("ipv6:[::1]:5", "::1"),
        ("unix:", "unix"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("::1:80", "::1:80"),
        ("", ""),
    ],
)
def test_peer_when_it_is_noted_then_without_its_port(peer: str, address: str) -> None:
    """As gRPC and as the HTTP server name a connection."""
    assert address_of(peer) == address
