"""What clients of a cluster did and were told, and what of that cannot be.

All times are of one clock, in seconds. An operation that was not answered has no end: it may have
been done at any time after it began, or never.

A key has one writer, who writes 1, 2, 3… and never goes on with a key after a write whose end he
does not know. For such a register it is known exactly what is linearizable: a read sees a write
that has begun, no earlier one than the last that had ended before the read began, and no earlier
one than a read that had ended before it began (L. Lamport, On interprocess communication, 1986).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

NEVER = math.inf
"""The end of what was not answered."""


@dataclass(frozen=True, slots=True)
class Write:
    """A writer has set a key to his next number, or deleted it, which is his last.

    Attributes:
        end_s: when he was told that it is done, `NEVER` if he was not.
    """

    actor: str
    key: str
    number: int
    begin_s: float
    end_s: float = NEVER
    is_delete: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody was told a key's number, or that there is none: 0."""

    actor: str
    key: str
    number: int
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Served:
    """An actor's reply, and the node that gave it."""

    actor: str
    node: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Owned:
    """An epoch of an actor, and its owner in it, "" for nobody."""

    actor: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """An application was to be deployed, or removed.

    Attributes:
        end_s: when its client was told that it is done, `NEVER` if he was not.
    """

    name: str
    begin_s: float
    end_s: float = NEVER
    is_removal: bool = False


def faults_of_keys(writes: Iterable[Write], reads: Iterable[Read]) -> list[str]:
    """Return what no register does, a line for each read that cannot be; empty is good."""
    by_key: dict[tuple[str, str], tuple[list[Write], list[Read]]] = {}
    for write in writes:
        by_key.setdefault((write.actor, write.key), ([], []))[0].append(write)
    for read in reads:
        by_key.setdefault((read.actor, read.key), ([], []))[1].append(read)
    found: list[str] = []
    for of_key in by_key.values():
        found += _faults_of_key(*of_key)
    return found


def _faults_of_key(writes: list[Write], reads: list[Read]) -> list[str]:
    writes = sorted(writes, key=lambda one: one.number)
    _check_writer(writes)
    ended = _Highest((write.end_s, write.number) for write in writes)
    seen: list[tuple[float, int]] = []
    found = []
    for read in sorted(reads, key=lambda one: one.begin_s):
        least = ended.before(read.begin_s)
        least_seen = max((number for end_s, number in seen if end_s < read.begin_s), default=0)
        fitting = [
            number
            for number, begin_s in _meanings(read, writes)
            if begin_s < read.end_s and number >= max(least, least_seen)
        ]
        if fitting:
            seen.append((read.end_s, min(fitting)))
        else:
            found.append(
                f"{read.actor}: key {read.key} was {read.number} from {read.begin_s:.3f} to "
                f"{read.end_s:.3f} s, after {least} had been acknowledged and {least_seen} read"
            )
    return found


def _meanings(read: Read, writes: Sequence[Write]) -> list[tuple[int, float]]:
    """Return which writes a read may have seen, each with its begin: no key is two things."""
    if read.number == 0:
        deletes = [(one.number, one.begin_s) for one in writes if one.is_delete]
        return [(0, -NEVER), *deletes]
    return [
        (one.number, one.begin_s)
        for one in writes
        if one.number == read.number and not one.is_delete
    ]


def _check_writer(writes: Sequence[Write]) -> None:
    """Raise `ValueError` if the writer did not do what makes the check exact."""
    for before, after in pairwise(writes):
        if before.end_s > after.begin_s or before.is_delete or before.number == after.number:
            raise ValueError(f"not one after the other: {before}, {after}")


class _Highest:
    """The highest number that had ended before a time."""

    def __init__(self, ends: Iterable[tuple[float, int]]) -> None:
        self._ends = sorted(ends)

    def before(self, time_s: float) -> int:
        return max((number for end_s, number in self._ends if end_s < time_s), default=0)


def lost_keys(writes: Iterable[Write], at_the_end: Iterable[Read]) -> list[str]:
    """Return the keys that were acknowledged and are not among those read at the end."""
    asked = {(read.actor, read.key) for read in at_the_end}
    wanted = {(one.actor, one.key) for one in writes if one.end_s < NEVER}
    return [f"{actor}: key {key} was not read at the end" for actor, key in sorted(wanted - asked)]


def faults_of_owners(served: Iterable[Served], epochs: Iterable[Owned]) -> list[str]:
    """Return the replies that fit into no epoch of the node that gave them; empty is good.

    Epochs follow each other, and each has one owner: there has to be a moment within each reply so
    that all of them together follow the epochs.
    """
    owners: dict[str, list[Owned]] = {}
    for epoch in sorted(epochs, key=lambda one: one.epoch):
        owners.setdefault(epoch.actor, []).append(epoch)
    found: list[str] = []
    by_actor: dict[str, list[Served]] = {}
    for one in served:
        by_actor.setdefault(one.actor, []).append(one)
    for actor, replies in sorted(by_actor.items()):
        found += _faults_of_owner(replies, owners.get(actor, []))
    return found


def _faults_of_owner(replies: list[Served], epochs: list[Owned]) -> list[str]:
    found = []
    # The earliest epoch that each can have is best for all that come later.
    running: list[tuple[float, int]] = []
    least = 0
    for reply in sorted(replies, key=lambda one: one.begin_s):
        still = []
        for end_s, at in running:
            if end_s < reply.begin_s:
                least = max(least, at)
            else:
                still.append((end_s, at))
        fitting = (at for at in range(least, len(epochs)) if epochs[at].owner == reply.node)
        at = next(fitting, -1)
        if at < 0:
            found.append(
                f"{reply.actor}: {reply.node} replied from {reply.begin_s:.3f} to "
                f"{reply.end_s:.3f} s, and was no owner after epoch "
                f"{epochs[least].epoch if epochs else 'none'}"
            )
            running = still
        else:
            running = [*still, (reply.end_s, at)]
    return found


def faults_of_lives(served: Iterable[Served]) -> list[str]:
    """Return the lives of an actor that replied by turns; empty is good.

    A life is from a start to its end: it is in place of the node that gave the reply. Two of them
    follow each other if one has no reply that ended before one of the other began. Where each has,
    there were two owners at once.
    """
    lives: dict[str, dict[str, tuple[float, float]]] = {}
    for one in served:
        of_actor = lives.setdefault(one.actor, {})
        end_s, begin_s = of_actor.get(one.node, (NEVER, -NEVER))
        of_actor[one.node] = min(end_s, one.end_s), max(begin_s, one.begin_s)
    return [
        f"{actor}: {one} replied first until {ends[one][0]:.3f} s and last from {ends[one][1]:.3f} "
        f"s, and {other} first until {ends[other][0]:.3f} s and last from {ends[other][1]:.3f} s"
        for actor, ends in sorted(lives.items())
        for one, other in combinations(ends, 2)
        if ends[one][0] < ends[other][1] and ends[other][0] < ends[one][1]
    ]


def faults_of_deploys(deploys: Iterable[Deployed], there: Iterable[str]) -> list[str]:
    """Return what differs from what clients were told; `there` is what runs at the end.

    What was not answered may be there or not. The operations of a name follow each other.
    """
    last: dict[str, Deployed] = {}
    unsure: set[str] = set()
    for one in sorted(deploys, key=lambda one: one.begin_s):
        last[one.name] = one
        if one.end_s == NEVER:
            # It may still happen, whatever follows.
            unsure.add(one.name)
    running = set(there)
    found = []
    for name, one in sorted(last.items()):
        if name in unsure:
            continue
        if one.is_removal and name in running:
            found.append(f"{name} is there, and its removal was acknowledged")
        if not one.is_removal and name not in running:
            found.append(f"{name} is not there, and its deploy was acknowledged")
    found += [f"{name} is there, and nobody deployed it" for name in sorted(running - set(last))]
    return found


def availability(ends_s: Iterable[float], begin_s: float, end_s: float) -> float:
    """Return the longest time between two of these moments, from a begin to an end."""
    inside = sorted(one for one in ends_s if begin_s <= one <= end_s)
    moments = [begin_s, *inside, end_s]
    return max(after - before for before, after in pairwise(moments))
