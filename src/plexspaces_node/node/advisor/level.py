"""A weaker or stronger isolation level, by what each cost on this host when it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from plexspaces_node.level_figures import LevelFigures
from plexspaces_node.model import LEVELS
from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.advice import Advice, Fact, Rule, Unit, per_second, percent
from plexspaces_node.node.advisor.figures import Figures, total_ns
from plexspaces_node.telemetry import duration, number

MEASURE = "plexspaces advise --measure"

_LOST = {
    "process": "no virtual machine is left around the code, only WebAssembly, seccomp and Landlock,"
    " so do it only for code that you trust",
    "qemu": "QEMU is a larger program for the code to attack than Firecracker with its jailer",
}
_GAINED = {
    "qemu": "each then runs in a virtual machine of its own",
    "firecracker": "each then runs in a virtual machine of its own, in Firecracker's jailer",
}


class Load(NamedTuple):
    """What applications do together; all but `messages` per second of wall time.

    Attributes:
        application: the only one, or "".
        compute_s, time_s: of their messages.
    """

    application: str
    messages: int
    rate: float
    compute_s: float
    time_s: float


def load_of(figures: Sequence[Figures]) -> Load:
    """Return what applications do together, of those with enough messages."""
    busy = [one for one in figures if one.spent.messages >= thresholds.MESSAGES]
    return Load(
        figures[0].name if len(figures) == 1 else "",
        sum(one.spent.messages for one in busy),
        sum(one.spent.messages / one.seconds for one in busy),
        sum(one.spent.compute_ns / one.seconds for one in busy) / 1e9,
        sum(total_ns(one.spent) / one.seconds for one in busy) / 1e9,
    )


def usable(
    known: Mapping[str, LevelFigures], version: str, unix_ns: int
) -> dict[str, LevelFigures]:
    """Return the figures that are still true: of this version, and not too old."""
    oldest_ns = unix_ns - thresholds.LEVEL_DAYS * 86_400 * 1_000_000_000
    return {
        level: one
        for level, one in known.items()
        if one.version == version and one.measured_unix_ns >= oldest_ns
    }


def missing(known: Mapping[str, LevelFigures], here: str) -> Iterator[str]:
    """Yield what there is no advice about, because it was not measured."""
    if here not in LEVELS:
        return
    lacking = [level for level in LEVELS if level not in known]
    if here in lacking:
        yield f"level: what {here} costs on this host was not measured; do it with: {MEASURE}"
    elif lacking:
        yield (
            f"level: what {' and '.join(lacking)} would cost on this host was not measured; if "
            f"plexspaces doctor says that it works, do it with: {MEASURE}"
        )


def advise(
    load: Load, known: Mapping[str, LevelFigures], *, here: str, node_id: str
) -> Iterator[Advice]:
    """Yield an advice for each other level that saves much, or protects better for little."""
    if load.messages < thresholds.MESSAGES or here not in known:
        return
    for level in LEVELS:
        if level == here or level not in known:
            continue
        cost = cost_s(load, known[here], known[level])
        is_weaker = LEVELS.index(level) > LEVELS.index(here)
        least = max(thresholds.LEVEL_SHARE * load.time_s, thresholds.LEAST_SAVED_S_PER_S)
        if (-cost >= least) if is_weaker else (cost <= thresholds.LEVEL_SHARE * load.time_s):
            yield _advice(load, known[here], known[level], cost, node_id)


def cost_s(load: Load, here: LevelFigures, there: LevelFigures) -> float:
    """Return how much longer messages would take there, per second of wall time."""
    passing = load.rate * (there.link_ns - here.link_ns) / 1e9
    return passing + load.compute_s * (_compute_ratio(here, there) - 1)


def _compute_ratio(here: LevelFigures, there: LevelFigures) -> float:
    ratio = there.compute_ns / here.compute_ns
    return 1.0 if abs(ratio - 1) <= thresholds.LEVEL_COMPUTE else ratio


def _advice(
    load: Load, here: LevelFigures, there: LevelFigures, cost: float, node_id: str
) -> Advice:
    whose = load.application or "all applications"
    share = abs(cost) / load.time_s if load.time_s else 0.0
    is_weaker = LEVELS.index(there.level) > LEVELS.index(here.level)
    change = f"take {percent(share)} {'less' if cost < 0 else 'more'} time"
    how = f"{there.level}{', which is emulated here,' if there.emulated else ''}"
    text = f"At the level {how} instead of {here.level} messages of {whose} {change}; "
    text += f"but {_LOST[there.level]}" if is_weaker else _GAINED[there.level]
    ratio = _compute_ratio(here, there)
    day = datetime.fromtimestamp(there.measured_unix_ns / 1e9, UTC).date().isoformat()
    return Advice(
        Rule.LEVEL,
        load.application,
        f"{text}.",
        (
            Fact("messages", load.rate, Unit.PER_S),
            Fact(f"passing each at {here.level}", here.link_ns, Unit.NS),
            Fact(f"passing each at {there.level}", there.link_ns, Unit.NS),
            Fact(f"the same compute, {there.level} to {here.level}", ratio, Unit.RATIO),
            Fact(f"VM start and load at {here.level}", here.vm_ns + here.load_ns, Unit.NS),
            Fact(f"VM start and load at {there.level}", there.vm_ns + there.load_ns, Unit.NS),
        ),
        f"{number(load.rate)} messages a second, for each {duration(there.link_ns)} instead of "
        f"{duration(here.link_ns)} to pass, and {duration(load.compute_s * 1e9)} of compute times "
        f"{number(ratio)}: {per_second(abs(cost))} {'less' if cost < 0 else 'more'}. By a probe at "
        f"each level on this host ({day}), medians of {there.messages} messages; it takes for "
        "granted that other messages differ as the probe's do. The level is the whole node's.",
        saved_s_per_s=-cost,
        command=f"plexspaces start-node --node-id {node_id} --isolation {there.level}",
    )
