"""Memory that a VM never uses, or has too little of."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from plexspaces_node.model import MIB
from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.advice import (
    Advice,
    Fact,
    Rule,
    Unit,
    amount,
    percent,
)


class MemoryFigures(NamedTuple):
    """The memory of one VM, looked at again and again.

    Attributes:
        application: its full name.
        given_mib: what the VM was given.
        fixed_bytes: what of it the application cannot have, whatever it does.
        used_bytes: the most that it can have used of the rest.
        surely_used_bytes: the most that it has surely used of it.
        least_mib: what a VM must have with this application: by its level, and by what the
            application declares.
        how: what `used_bytes` was measured by.
        seconds: since the first look.
        looks: in how many looks there had been messages since the one before.
        messages: since the first look.
    """

    application: str
    given_mib: int
    fixed_bytes: int
    used_bytes: int
    surely_used_bytes: int
    least_mib: int
    how: str
    seconds: float
    looks: int
    messages: int


def is_enough(of: MemoryFigures) -> bool:
    """Return whether it was looked at long enough."""
    return (
        of.seconds >= thresholds.MEMORY_S
        and of.looks >= thresholds.MEMORY_LOOKS
        and of.messages >= thresholds.MESSAGES
    )


def advise(of: MemoryFigures) -> Iterator[Advice]:
    """Yield an advice if the VM should have less memory, or more."""
    if not is_enough(of) or of.used_bytes <= 0:
        return
    room = of.given_mib * MIB - of.fixed_bytes
    if of.surely_used_bytes >= thresholds.MEMORY_FULL * room:
        yield _more(of, room)
        return
    wanted_mib = max(_with_margin(of, of.used_bytes), of.least_mib)
    saved = (of.given_mib - wanted_mib) * MIB
    if saved >= thresholds.MEMORY_UNUSED * of.given_mib * MIB:
        yield _less(of, room, wanted_mib)


def _with_margin(of: MemoryFigures, used_bytes: int) -> int:
    wanted = of.fixed_bytes + thresholds.MEMORY_MARGIN * used_bytes
    steps = ceil(wanted / (thresholds.MEMORY_STEP_MIB * MIB))
    return steps * thresholds.MEMORY_STEP_MIB


def _less(of: MemoryFigures, room: int, wanted_mib: int) -> Advice:
    return Advice(
        Rule.MEMORY,
        of.application,
        f"Give the VM of {of.application} {wanted_mib} MiB instead of {of.given_mib}: no more than "
        f"{amount(of.used_bytes)} has ever been in use, of the {amount(room)} that it can have.",
        _facts(of, room),
        f"The most in {of.looks} looks over {of.seconds / 60:.0f} minutes, by {of.how}, times "
        f"{thresholds.MEMORY_MARGIN:g} for what has not been seen, with {amount(of.fixed_bytes)} "
        f"that an application cannot have, in steps of {thresholds.MEMORY_STEP_MIB} MiB, and at "
        f"least {of.least_mib} MiB. It takes for granted that messages stay as they are.",
        saved_bytes=(of.given_mib - wanted_mib) * MIB,
        command=_command(of, wanted_mib),
    )


def _more(of: MemoryFigures, room: int) -> Advice:
    wanted_mib = max(_with_margin(of, of.surely_used_bytes), of.least_mib)
    return Advice(
        Rule.MEMORY,
        of.application,
        f"Give the VM of {of.application} {wanted_mib} MiB instead of {of.given_mib}: it uses "
        f"{percent(of.surely_used_bytes / room)} of the {amount(room)} that it can have, and what "
        "it cannot get makes its messages fail.",
        _facts(of, room),
        f"What it surely used, times {thresholds.MEMORY_MARGIN:g}, with {amount(of.fixed_bytes)} "
        "that an application cannot have. It costs memory and saves failures, which nothing can "
        "predict.",
        command=_command(of, wanted_mib),
    )


def _facts(of: MemoryFigures, room: int) -> tuple[Fact, ...]:
    return (
        Fact("given to the VM", of.given_mib * MIB, Unit.BYTES),
        Fact("of it for the application", room, Unit.BYTES),
        Fact("used at most", of.used_bytes, Unit.BYTES),
        Fact("surely used", of.surely_used_bytes, Unit.BYTES),
        Fact("messages meanwhile", of.messages, Unit.COUNT),
    )


def _command(of: MemoryFigures, wanted_mib: int) -> str:
    return f"plexspaces deploy PROJECT --name {of.application} --replace --memory {wanted_mib}"
