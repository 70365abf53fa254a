"""Places in turn: nobody waits behind all that somebody else asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from plexspaces_node.node.artifacts.fair_slots import Turns


class Crowd:
    """Tasks that want a place each and keep it until they are told to go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.inside: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Have these want a place; the first letter is who owns it, after a dot its group."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._stay(name))
            await asyncio.sleep(0)

    async def go(self, *names: str) -> None:
        """Have these leave, or give up waiting."""
        for name in names:
            if name in self.inside:
                self._leave[name].set()
            else:
                self._tasks[name].cancel()
            await asyncio.wait({self._tasks.pop(name)})
            await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _stay(self, name: str) -> None:
        async with self.turns.place(name[0], name.partition(".")[2]):
            self.inside.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd(Turns(2))
    yield crowd
    await crowd.close()


async def test_place_when_free_then_it_is_had_at_once(crowd: Crowd) -> None:
    """Nobody waits without need, and one more waits."""
    await crowd.come("a1", "a2", "a3")
    assert crowd.inside == ["a1", "a2"]
    assert crowd.turns.waiting == 1


async def test_place_when_several_wait_then_each_owner_has_its_turn(crowd: Crowd) -> None:
    """One that comes after many of another's is next but one, and not last."""
    await crowd.come("a1", "a2", "a3", "a4", "a5", "b1", "c1")
    order = []
    for leaves in ("a1", "a2", "a3", "b1", "c1"):
        before = set(crowd.inside)
        await crowd.go(leaves)
        order += sorted(set(crowd.inside) - before)
    assert order == ["a3", "b1", "c1", "a4", "a5"]
    await crowd.go("a4", "a5")
    assert crowd.turns.waiting == 0
    await crowd.come("d1", "d2")
    assert crowd.inside == ["d1", "d2"]


async def test_place_when_one_gives_up_then_its_turn_passes_on(crowd: Crowd) -> None:
    """Whoever goes away while it waits, or in the moment it is called, holds up nobody."""
    await crowd.come("a1", "a2", "a3", "b1", "c1")
    await crowd.go("b1")
    # Called, and cancelled before it could come in.
    crowd._leave["a1"].set()
    await asyncio.wait({crowd._tasks.pop("a1")})
    await crowd.go("a3")
    assert crowd.inside == ["a2", "c1"]


async def test_place_when_an_owner_has_its_share_then_the_rest_is_for_others() -> None:
    """A place stays free for a stranger, however many one owner wants."""
    crowd = Crowd(Turns(3, share=2))
    await crowd.come("a1", "a2", "a3", "b1", "b2")
    assert crowd.inside == ["a1", "a2", "b1"]
    await crowd.go("b1")
    assert crowd.inside == ["a1", "a2", "b2"]
    await crowd.go("a1")
    assert crowd.inside == ["a2", "b2", "a3"]
    await crowd.close()


async def test_place_when_all_of_an_owner_go_at_once_then_none_is_lost() -> None:
    """A client's connection ends with whoever has a place and whoever waits, in one step."""
    turns = Turns(4, share=2)
    for _ in range(3):
        crowd = Crowd(turns)
        await crowd.come("a1", "a2", "a3", "a4", "b1", "a5", "a6")
        await crowd.close()
        assert turns.waiting == 0
    crowd = Crowd(turns)
    await crowd.come("a1", "a2", "b1", "b2", "c1")
    assert crowd.inside == ["a1", "a2", "b1", "b2"]
    await crowd.close()
    assert repr(turns) == "<Turns 4 free, 0 wait>"


async def test_place_when_a_waiter_gives_up_as_a_place_is_freed_then_the_next_has_it() -> None:
    """It was cancelled and has not heard of it when the place is given on."""
    crowd = Crowd(Turns(1))
    await crowd.come("a1", "b1", "b2", "c1")
    crowd._tasks["b1"].cancel()
    crowd._leave["a1"].set()
    await asyncio.gather(crowd._tasks.pop("a1"), crowd._tasks.pop("b1"), return_exceptions=True)
    await asyncio.sleep(0)
    assert crowd.inside == ["b2"]
    await crowd.go("b2")
    assert crowd.inside == ["c1"]
    await crowd.close()


async def test_place_when_groups_wait_then_each_has_its_turn_whatever_its_owners() -> None:
    """A tenant with many connections does not delay another by each of them."""
    crowd = Crowd(Turns(1))
    await crowd.come("a1.x", "b1.x", "c1.x", "d1.x", "b2.x", "e1.y", "e2.y", "f1.y")
    order = []
    for _ in range(8):
        [inside] = crowd.inside
        order.append(inside)
        await crowd.go(inside)
    assert order == ["a1.x", "b1.x", "e1.y", "c1.x", "f1.y", "d1.x", "e2.y", "b2.x"]
    assert crowd.turns.waiting == 0
    await crowd.close()


async def test_place_when_a_group_waits_for_its_own_share_then_the_next_comes() -> None:
    """One that may have no more holds up nobody, and what gives up leaves nothing."""
    crowd = Crowd(Turns(2, share=1))
    await crowd.come("a1.x", "a2.x", "b1.y", "b2.y", "c1.y", "c2.z")
    assert crowd.inside == ["a1.x", "b1.y"]
    await crowd.go("c1.y", "b1.y")
    assert crowd.inside == ["a1.x", "b2.y"]
    await crowd.go("b2.y")
    assert crowd.inside == ["a1.x", "c2.z"]
    await crowd.go("a2.x")
    assert crowd.turns.waiting == 0
    await crowd.close()
