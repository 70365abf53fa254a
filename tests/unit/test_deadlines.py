"""Many requests that end at a time, by one timer."""

from __future__ import annotations

import asyncio

import pytest

from plexspaces_node.node.cluster.deadlines import Deadlines


class One:
    """Something that is due; notes when it was told."""

    def __init__(self, deadlines: Deadlines, after_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.deadlines = deadlines
        self.due_s = self.loop.time() + after_s
        self.told_s: list[float] = []
        self.others: list[One] = []
        deadlines.add(self)

    def expire(self) -> None:
        self.told_s.append(self.loop.time())
        for other in self.others:
            self.deadlines.remove(other)
        if self.others:
            raise RuntimeError("a defect of one")


@pytest.mark.virtual_time
async def test_deadlines_when_due_then_each_once_and_in_time() -> None:
    """Whichever was added first; those that were removed, never."""
    deadlines = Deadlines()
    all_ = [One(deadlines, after_s) for after_s in (5.0, 1.0, 3.0, 1.001)]
    gone = One(deadlines, 2.0)
    await asyncio.sleep(1.5)
    deadlines.remove(gone)
    deadlines.remove(gone)
    assert [len(each.told_s) for each in all_] == [0, 1, 0, 1]
    await asyncio.sleep(10)
    assert gone.told_s == []
    for each in all_:
        assert len(each.told_s) == 1
        assert each.due_s <= each.told_s[0] <= each.due_s + 0.02
    later = One(deadlines, 1.0)
    await asyncio.sleep(2)
    assert len(later.told_s) == 1


@pytest.mark.virtual_time
async def test_deadline_when_one_fails_then_the_others_are_told() -> None:
    """And one that it has ended is not."""
    noted: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noted.append(context))
    deadlines = Deadlines()
    first, ended, other = (One(deadlines, 1.0) for _ in range(3))
    first.others.append(ended)
    await asyncio.sleep(2)
    assert len(noted) == len(first.told_s) == len(other.told_s) == 1
    assert ended.told_s == []


@pytest.mark.virtual_time
async def test_deadlines_when_closed_then_nothing_is_told() -> None:
    """No timer is left either."""
    deadlines = Deadlines()
    one = One(deadlines, 1.0)
    deadlines.close()
    deadlines.close()
    await asyncio.sleep(2)
    assert one.told_s == []
