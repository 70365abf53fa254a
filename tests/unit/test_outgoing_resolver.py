"""Lookups of names: on threads of their own, few for each application, none of them waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from plexspaces_node.allowed_hosts import Address
from plexspaces_node.node.outgoing.resolver import Resolver, look_up


class Names:
    """Looks names up, some of them only when they may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked: list[str] = []

    def look_up(self, name: str) -> Sequence[Address]:
        self.asked.append(name)
        if name.startswith("slow"):
            self.may.wait(60)
        if name == "none":
            raise OSError("no such name")
        if name == "bad":
            raise UnicodeError("not a name")
        return [ip_address("10.0.0.1")]


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.may.set()


async def test_lookup_when_it_ends_then_its_addresses(names: Names) -> None:
    """A name has addresses."""
    share = asyncio.Semaphore(1)
    resolver = Resolver(names.look_up)
    assert await resolver.resolve("a", share) == [ip_address("10.0.0.1")]
    for name in ("none", "bad"):
        with pytest.raises(OSError, match="no"):
            await resolver.resolve(name, share)
    assert not share.locked()


async def test_lookup_when_nobody_waits_any_more_then_it_keeps_its_slot_until_it_ends(
    names: Names,
) -> None:
    """An application with a slow name server waits for itself, and for nobody else."""
    resolver, mine, other = Resolver(names.look_up), asyncio.Semaphore(1), asyncio.Semaphore(1)
    slow = asyncio.create_task(resolver.resolve("slow", mine))
    while not names.asked:
        await asyncio.sleep(0)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    next_one = asyncio.create_task(resolver.resolve("a", mine))
    assert await resolver.resolve("b", other)
    assert names.asked == ["slow", "b"]
    names.may.set()
    assert await next_one
    assert not mine.locked()


async def test_lookups_when_the_node_has_many_then_the_next_waits(names: Names) -> None:
    """Threads are bounded, and one that gives up waiting leaves nothing."""
    resolver, shares = Resolver(names.look_up, at_once=1), [asyncio.Semaphore(1) for _ in range(3)]
    slow = asyncio.create_task(resolver.resolve("slow", shares[0]))
    gives_up = asyncio.create_task(resolver.resolve("a", shares[1]))
    waits = asyncio.create_task(resolver.resolve("b", shares[2]))
    while not names.asked:
        await asyncio.sleep(0)
    gives_up.cancel()
    await asyncio.gather(gives_up, return_exceptions=True)
    assert not shares[1].locked()
    names.may.set()
    assert await waits
    assert await slow
    assert names.asked == ["slow", "b"]


def test_system_when_asked_for_localhost_then_its_addresses() -> None:
    """The names of this computer are resolved too, which is why addresses are checked."""
    assert all(address.is_loopback for address in look_up("localhost"))
