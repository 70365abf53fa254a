"""Many small messages of one type: send several payloads in one."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.advice import Advice, Fact, Rule, Unit, amount, per_second
from plexspaces_node.node.advisor.figures import Figures, TypeFigures
from plexspaces_node.telemetry import duration, number


def advise(of: Figures) -> Iterator[Advice]:
    """Yield an advice for each type of message that is worth batching."""
    # An HTTP request is what browsers and others send: it cannot be made another.
    if of.is_component:
        return
    for kind in of.types:
        if kind.name and (found := _about(of, kind)) is not None:
            yield found


def size_of(of: Figures, kind: TypeFigures) -> int:
    """Return how many payloads a message of a type should have; 1 for as it is."""
    messages = kind.spent.messages
    if messages < thresholds.MESSAGES or of.active_s < thresholds.ACTIVE_S:
        return 1
    rate, payload = messages / of.active_s, kind.payload_bytes / messages
    work_ns = kind.spent.compute_ns + kind.spent.wait_ns
    if (
        rate < thresholds.BATCH_PER_S
        or payload > thresholds.BATCH_PAYLOAD_BYTES
        or kind.spent.link_ns < work_ns
    ):
        return 1
    wanted = ceil(thresholds.BATCH_WORK * kind.spent.link_ns / max(1, work_ns))
    return max(
        1,
        min(
            wanted,
            thresholds.BATCH_MOST,
            int(rate * thresholds.BATCH_WAIT_S),
            int(thresholds.BATCH_BYTES / max(1.0, payload)),
        ),
    )


def _about(of: Figures, kind: TypeFigures) -> Advice | None:
    size = size_of(of, kind)
    if size < 2:
        return None
    messages, link_ns = kind.spent.messages, kind.spent.link_ns
    saved = link_ns * (1 - 1 / size) / 1e9 / of.seconds
    if saved < thresholds.LEAST_SAVED_S_PER_S:
        return None
    rate, each_ns = messages / of.active_s, link_ns / messages
    work_ns = (kind.spent.compute_ns + kind.spent.wait_ns) / messages
    payload = kind.payload_bytes / messages
    return Advice(
        Rule.BATCH,
        of.name,
        f"Send about {size} payloads in one {kind.name!r} message instead of one in each: passing "
        f"a message takes {duration(each_ns)}, and the work in it {duration(work_ns)}.",
        (
            Fact("messages", messages, Unit.COUNT),
            Fact("while there are messages", rate, Unit.PER_S),
            Fact("mean payload", payload, Unit.BYTES),
            Fact("passing each", each_ns, Unit.NS),
            Fact("compute and waiting of each", work_ns, Unit.NS),
            Fact("queue of each", kind.spent.queue_ns / messages, Unit.NS),
        ),
        f"{messages} messages took {duration(link_ns)} to pass in {number(of.seconds)} s. With "
        f"{size} payloads in each, 1/{size} of them are left: {per_second(saved)} less. It takes "
        f"for granted that a batch of {amount(size * payload)} passes as fast as a message of "
        f"{amount(payload)}, and that the work for a payload stays the same. Time in the queue is "
        "not counted.",
        saved_s_per_s=saved,
    )
