"""Gives advice about the applications of a node: every rule over what was measured of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import TypeVar

from plexspaces_node.errors import no_application
from plexspaces_node.level_figures import LevelFigures
from plexspaces_node.node.advisor import batch, coordination, level, memory, thresholds, together
from plexspaces_node.node.advisor.advice import Advice, ranked
from plexspaces_node.node.advisor.figures import Figures
from plexspaces_node.node.advisor.memory import MemoryFigures
from plexspaces_node.node.advisor.memory_looks import MemoryLooks
from plexspaces_node.node.advisor.windows import Windows
from plexspaces_node.node.applications.activity_watch import ActivityWatch
from plexspaces_node.node.applications.roster import Viewer
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.telemetry import number

UPKEEP_S = 30.0
"""How often it looks at what it has to remember of applications."""

MOST = 100
"""How many advices it gives at once."""

_NAMED = 5
"""How many applications with too little data are named."""

_T = TypeVar("_T")
_AT_ONCE = 20
"""Applications that are looked at without a pause for others: up to 0.3 ms each."""


@dataclass(frozen=True, slots=True)
class Report:
    """What to change, the largest gain first, and what there is too little data for."""

    advice: tuple[Advice, ...]
    insufficient: tuple[str, ...]


class Advisor:
    """Gives advice. Used on the event loop.

    `clock` returns the time in nanoseconds since the epoch, `levels` what levels were measured to
    cost; it may block for a small read.

    Attributes:
        watch: tells what the applications do that it gives advice about.
    """

    def __init__(
        self,
        watch: ActivityWatch,
        *,
        clock: Callable[[], int] = time_ns,
        levels: Callable[[], Mapping[str, LevelFigures]] = lambda: {},
    ) -> None:
        self.watch = watch
        self._clock = clock
        self._levels = levels
        self._windows = Windows()
        self._memory = MemoryLooks(watch.info)

    def __repr__(self) -> str:
        return f"<Advisor with {self._windows!r}>"

    async def run(self) -> None:
        """Keep what has to be remembered, until it is cancelled or the node ends."""
        while await self.watch.pause(UPKEEP_S):
            await self.look()

    async def look(self) -> None:
        """Note how things are now; `run` does so again and again."""
        for at, supervisor in enumerate(self.watch.supervisors()):
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
            self._windows.mark(supervisor.activity, self._clock())
            await self._memory.look(supervisor, self._clock())

    async def advise(self, viewer: Viewer, *, tenant: str = "", name: str = "") -> Report:
        """Return what to change about an application, or about all that somebody may see.

        `name` is in full. Raises `NotFound` for an application that there is not, or that they may
        not see.
        """
        advice: list[Advice] = []
        figures: list[Figures] = []
        unseen: list[MemoryFigures] = []
        for at, supervisor in enumerate(self._asked(viewer, tenant, name)):
            if at and at % _AT_ONCE == 0:
                await asyncio.sleep(0)
            one = self._windows.figures(supervisor.activity, self._clock())
            figures.append(one)
            seen = one._replace(asks=tuple(each for each in one.asks if viewer.covers(each.to)))
            for rule in (batch, together, coordination):
                advice += rule.advise(seen)
            memory_seen = self._memory.figures(supervisor, self._clock())
            if memory_seen is not None:
                advice += memory.advise(memory_seen)
                if not memory.is_enough(memory_seen):
                    unseen.append(memory_seen)
        known = await self._usable_levels()
        info = self.watch.info
        if figures:
            load = level.load_of(figures)
            advice += level.advise(load, known, here=info.isolation, node_id=info.node_id)
        about = (
            *_about_little(figures),
            *_about_unseen(unseen),
            *level.missing(known, info.isolation),
        )
        told = ranked(advice)
        if len(told) > MOST:
            about = (*about, f"only {MOST} advices with the largest gain are told of {len(told)}")
        return Report(told[:MOST], about)

    async def _usable_levels(self) -> Mapping[str, LevelFigures]:
        found = await asyncio.to_thread(self._levels)
        return level.usable(found, self.watch.info.version, self._clock())

    def _asked(self, viewer: Viewer, tenant: str, name: str) -> Sequence[Supervisor]:
        if not name:
            return tuple(self.watch.visible(viewer, tenant))
        if not viewer.covers(name):
            raise no_application(name)
        return (self.watch.named(name),)


def _about_little(figures: Sequence[Figures]) -> Iterator[str]:
    """Yield a line about the applications with too few messages."""
    little = sorted(one for one in figures if one.spent.messages < thresholds.MESSAGES)
    if little:
        yield (
            f"batch, together, coordination and level need {thresholds.MESSAGES} messages of an "
            f"application: {_listed(little, _had)}"
        )


def _about_unseen(unseen: Sequence[MemoryFigures]) -> Iterator[str]:
    """Yield a line about those whose memory was not looked at long enough."""
    if unseen:
        yield (
            f"memory needs {thresholds.MEMORY_S // 60} minutes with {thresholds.MESSAGES} messages "
            f"in {thresholds.MEMORY_LOOKS} half minutes of them: {_listed(sorted(unseen), _seen)}"
        )


def _listed(each: Sequence[_T], in_words: Callable[[_T], str]) -> str:
    """Return all in words, or how many there are if they are many."""
    if len(each) > _NAMED:
        return f"{len(each)} applications have had fewer"
    return "; ".join(map(in_words, each))


def _had(one: Figures) -> str:
    return f"{one.name} had {one.spent.messages} in {number(one.seconds)} s"


def _seen(one: MemoryFigures) -> str:
    minutes = f"{one.seconds / 60:.0f} min"
    return f"{one.application} had {one.messages} in {one.looks} half minutes, over {minutes}"
