"""Messages that compute next to nothing: do more in each, or do it where they come from."""

from __future__ import annotations

from collections.abc import Iterator

from plexspaces_node.node.advisor import batch, thresholds
from plexspaces_node.node.advisor.advice import Advice, Fact, Rule, Unit, per_second
from plexspaces_node.node.advisor.figures import Figures, TypeFigures
from plexspaces_node.telemetry import duration, number


def advise(of: Figures) -> Iterator[Advice]:
    """Yield an advice for each type of message, but for those that are worth batching."""
    for kind in of.types:
        if not kind.name or (not of.is_component and batch.size_of(of, kind) > 1):
            continue
        if (found := _about(of, kind)) is not None:
            yield found


def _about(of: Figures, kind: TypeFigures) -> Advice | None:
    spent = kind.spent
    messages, coordinate_ns, link_ns = spent.messages, spent.coordinate_ns, spent.link_ns
    saved = link_ns / 1e9 / of.seconds if of.seconds else 0.0
    if (
        messages < thresholds.MESSAGES
        or coordinate_ns < thresholds.COORDINATION_RATIO * spent.compute_ns
        or link_ns < thresholds.COORDINATION_LINK * coordinate_ns
        or saved < thresholds.LEAST_SAVED_S_PER_S
    ):
        return None
    what = "request" if of.is_component else "message"
    compute, coordinate = duration(spent.compute_ns / messages), duration(coordinate_ns / messages)
    return Advice(
        Rule.COORDINATION,
        of.name,
        f"Do more in each {kind.name!r} {what}, or do it where the {what}s come from: one computes "
        f"for {compute} and is coordinated for {coordinate}.",
        (
            Fact(f"{what}s", messages, Unit.COUNT),
            Fact("compute of each", spent.compute_ns / messages, Unit.NS),
            Fact("passing each", link_ns / messages, Unit.NS),
            Fact("waiting of each", spent.wait_ns / messages, Unit.NS),
            Fact("queue of each", spent.queue_ns / messages, Unit.NS),
            Fact("coordination to compute", coordinate_ns / max(1, spent.compute_ns), Unit.RATIO),
        ),
        f"{messages} {what}s took {duration(link_ns)} to pass in {number(of.seconds)} s. If none "
        f"of them had to be sent, that is {per_second(saved)} less; with twice the work in each, "
        "half of it. What waits in host calls or in the queue is not counted.",
        saved_s_per_s=saved,
    )
