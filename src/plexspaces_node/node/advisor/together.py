"""An application whose messages mostly wait for another to be asked: make them one."""

from __future__ import annotations

from collections.abc import Iterator

from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.advice import Advice, Fact, Rule, Unit, per_second, percent
from plexspaces_node.node.advisor.figures import AskFigures, Figures
from plexspaces_node.telemetry import duration, number


def advise(of: Figures) -> Iterator[Advice]:
    """Yield an advice for each application that it should be one with."""
    for asked in of.asks:
        if (found := _about(of, asked)) is not None:
            yield found


def _about(of: Figures, asked: AskFigures) -> Advice | None:
    # Without its own messages' passing and queue, which are no fault of its asks.
    handling_ns = of.spent.compute_ns + of.spent.wait_ns
    if asked.asks < thresholds.MESSAGES or not handling_ns:
        return None
    link_ns = asked.link_ns
    # Asks that ran side by side take longer together than the message that waited for them.
    share, saved = min(1.0, link_ns / handling_ns), link_ns / 1e9 / of.seconds
    if share < thresholds.TOGETHER_SHARE or saved < thresholds.LEAST_SAVED_S_PER_S:
        return None
    return Advice(
        Rule.TOGETHER,
        of.name,
        f"Make {of.name} and {asked.to} one application: passing its asks takes {percent(share)} "
        f"of the time in which {of.name} handles messages; but one application has no wall inside.",
        (
            Fact("asks", asked.asks, Unit.COUNT),
            Fact("asks", asked.asks / of.seconds, Unit.PER_S),
            Fact("each ask", asked.total_ns / asked.asks, Unit.NS),
            Fact("passing each", link_ns / asked.asks, Unit.NS),
            Fact("compute of each", asked.compute_ns / asked.asks, Unit.NS),
            Fact("queue of each", asked.queue_ns / asked.asks, Unit.NS),
            Fact("passing asks, of compute and waiting", share, Unit.RATIO),
        ),
        f"{asked.asks} asks took {duration(asked.total_ns)} in {number(of.seconds)} s, of which "
        f"{duration(link_ns)} were neither compute nor waiting nor queue of {asked.to}. A call "
        f"within one application takes none of it: {per_second(saved)} less. The way of an ask "
        "from its application to the node is not counted, nor is time in the queue.",
        saved_s_per_s=saved,
        other=asked.to,
    )
