"""What one application does: its messages counted, their times added up, some of them kept.

Everything is kept since the node started, in a limited amount of memory: at most 64 KiB an
application (`make bench` measures it). Used on the event loop; numbers may be read from any thread.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from operator import sub
from random import random
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from plexspaces_node.errors import ActorError, ActorTrapped, PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.telemetry.durations import Buckets
from plexspaces_node.node.telemetry.kept_traces import KeptTraces
from plexspaces_node.node.telemetry.span import Ended, Kind, Span, Step, Tree, cut
from plexspaces_node.node.telemetry.timeline import Spent, Timeline
from plexspaces_node.trace_context import TraceContext

if TYPE_CHECKING:
    from plexspaces_node.node.telemetry.telemetry import Telemetry

TRACED_EACH_NS = 100_000_000
"""A message that begins so long after the last one that was traced for it is traced: somebody who
sends one message sees it."""

MOST_TYPES = 12
"""How many message types, and applications that are asked, are told apart."""

_TOGETHER = 48
"""Messages that are counted together, in a third of the time."""

_Row: TypeAlias = "tuple[TypeActivity, int, int, int, int, int, int]"
"""What a message is counted for; total, compute, wait and queue; the bytes of payload and reply."""

_STARTS = 8
_FAILURES = 8
_FAILURE_CHARS = 512


class TypeActivity:
    """The messages of one type, or of all together."""

    __slots__ = (
        "compute_ns",
        "failures",
        "link_ns",
        "messages",
        "payload_bytes",
        "queue_ns",
        "reply_bytes",
        "wait_ns",
    )

    def __init__(self) -> None:
        self.messages = self.failures = 0
        self.compute_ns = self.wait_ns = self.queue_ns = self.link_ns = 0
        self.payload_bytes = self.reply_bytes = 0

    def add_all(self, rows: Sequence[_Row]) -> None:
        """Count messages."""
        _, *columns = zip(*rows, strict=True)
        self.add(len(rows), *map(sum, columns))

    def add(  # noqa: PLR0913 - a sum of each column of a row
        self,
        messages: int,
        total_ns: int,
        compute_ns: int,
        wait_ns: int,
        queue_ns: int,
        payload_bytes: int,
        reply_bytes: int,
    ) -> None:
        """Count messages by their sums."""
        self.messages += messages
        self.compute_ns += compute_ns
        self.wait_ns += wait_ns
        self.queue_ns += queue_ns
        self.link_ns += total_ns - compute_ns - wait_ns - queue_ns
        self.payload_bytes += payload_bytes
        self.reply_bytes += reply_bytes


class AskActivity:
    """What one application has asked another; times are of the `answered` ones."""

    __slots__ = ("answered", "asks", "compute_ns", "failures", "queue_ns", "total_ns", "wait_ns")

    def __init__(self) -> None:
        self.asks = self.answered = self.failures = self.total_ns = 0
        self.compute_ns = self.wait_ns = self.queue_ns = 0


class Start(NamedTuple):
    """An attempt to bring an application up.

    Attributes:
        reason: deploy, replace, start, restart, recover, roll_back, secret (which was changed) or
            place (by the cluster).
        cause: for a restart, why the VM before ended.
        error: why it failed, or "".
    """

    time_unix_ns: int
    reason: str
    cause: str
    error: str
    version: str
    timings: PhaseTimings


class Failure(NamedTuple):
    """A message that failed; `origin` is failed, trapped or platform."""

    time_unix_ns: int
    type: str
    origin: str
    code: str
    message: str
    trace_id: int


class Activity:
    """What one application does.

    Attributes:
        name: its full name.
        version: of what runs.
        is_component: whether it handles HTTP requests; their types are the methods.
        total: its messages; of failures also those without an answer. All but them is up
            to 2 s behind unless `settle` was called, as what follows.
        duration, compute, queue, coordination: durations of its messages.
        types: its messages by type; those over the limit together as "".
        asks: what it asks, by the names of the applications within its tenant.
        starts: how it was brought up, the newest last.
        restarts: how often a VM was replaced, by the reason.
        failures_kept: its last failures, the newest last.
        traces: messages that are kept.
        timeline: how it went over the last minutes.
    """

    def __init__(self, name: str, telemetry: Telemetry) -> None:
        self.name = name
        self.version = ""
        self.is_component = False
        self.total = TypeActivity()
        self.duration, self.compute = Buckets(), Buckets()
        self.queue, self.coordination = Buckets(), Buckets()
        self.types: dict[str, TypeActivity] = {}
        self.asks: dict[str, AskActivity] = {}
        self.starts: deque[Start] = deque(maxlen=_STARTS)
        self.restarts: Counter[str] = Counter()
        self.failures_kept: deque[Failure] = deque(maxlen=_FAILURES)
        self.traces = KeptTraces()
        self.timeline = Timeline(telemetry.unix_ns(perf_counter_ns()))
        self._telemetry = telemetry
        self._next_trace_ns = 0
        # Of messages of which durations and types are not counted yet.
        self._rows: list[_Row] = []
        self._is_touched = False

    def __repr__(self) -> str:
        return f"<Activity of {self.name}: {self.total.messages} messages>"

    @property
    def spent(self) -> Spent:
        """How the time of all messages was spent."""
        total = self.total
        return Spent(
            *(total.messages, total.failures),
            *(total.compute_ns, total.wait_ns, total.queue_ns, total.link_ns),
        )

    # ---- messages ----------------------------------------------------------------------

    def begin(
        self, kind: Kind, name: str, size: int, parent: Span | TraceContext | None = None
    ) -> Span:
        """Return the span of a message that is sent to this application now."""
        now_ns = perf_counter_ns()
        span = Span(self.name, kind, name, size, now_ns)
        if parent is None:
            if now_ns < self._next_trace_ns and random() >= self._telemetry.sample:
                return span
            self._next_trace_ns = now_ns + TRACED_EACH_NS
            span.identify(is_sampled=True)
        elif isinstance(parent, Span):
            parent.cause(span)
        else:
            span.join(parent)
        span.version = self.version
        return span

    def refuse(self) -> None:
        """Count a message that a quota refused."""
        self.total.failures += 1
        self._touch()

    def fail(self, span: Span, error: PlexSpacesError) -> None:
        """Count a message that got an error of the platform instead of an answer."""
        self._fail(span, error)
        self.lose(span)

    def lose(self, span: Span) -> None:
        """Count a message that got no answer, when nobody waited for one any more."""
        self.total.failures += 1
        self._touch()
        self.leave(span)

    def leave(self, span: Span) -> None:
        """End a message without an answer: if its sender left before it was sent, that is all."""
        span.total_ns = max(1, perf_counter_ns() - span.begin_ns)
        if span.is_cold:
            _identified(span, self.version)
            # Of one that no agent was ever sent it is all of it.
            span.waited_ns = span.queue_ns = span.waited_ns or span.total_ns
        self._keep(span)

    def made(self, span: Span, step: Step) -> None:
        """Tell of a step that has ended, of a message that may go on or be over."""
        if span.is_sampled and self._telemetry.export is not None:
            self._telemetry.export(Ended(span, step))

    def end(
        self,
        span: Span,
        timings: MessageTimings,
        error: PlexSpacesError | ActorError | None,
        reply_bytes: int,
    ) -> None:
        """Count a message that was answered, with an error if it failed."""
        total_ns, compute_ns, wait_ns, queue_ns = timings
        span.total_ns = total_ns
        rows = self._rows
        kind = self.types.get(span.name) or self._type_of(span.name)
        rows.append(
            (kind, total_ns, compute_ns, wait_ns, queue_ns, span.payload_bytes, reply_bytes)
        )
        if len(rows) >= _TOGETHER:
            self.settle()
        if not self._is_touched:
            self._touch()
        if error is not None:
            self.total.failures += 1
            kind.failures += 1
            self._fail(span, error)
        if span.tree is None:
            if total_ns <= self.traces.floor_ns:
                return
            _identified(span, self.version)
        span.compute_ns, span.wait_ns, span.queue_ns = compute_ns, wait_ns, queue_ns
        span.reply_bytes = reply_bytes
        tree = self._keep(span)
        if tree.is_sampled:
            end_ns = self._telemetry.unix_ns(span.begin_ns + total_ns)
            self.duration.show(total_ns, tree.trace_id, end_ns)

    def asked(self, to: str, timings: MessageTimings | None, error: object) -> None:
        """Count what this application has asked another; `timings` are None without an answer."""
        ask = self.asks.get(to)
        if ask is None:
            to = to if len(self.asks) < MOST_TYPES else ""
            ask = self.asks.setdefault(cut(to), AskActivity())
        ask.asks += 1
        ask.failures += error is not None
        if timings is not None:
            ask.answered += 1
            ask.total_ns += timings.total_ns
            ask.compute_ns += timings.compute_ns
            ask.wait_ns += timings.wait_ns
            ask.queue_ns += timings.queue_ns

    def settle(self) -> None:
        """Count the messages that have ended since the last time.

        Call it before what they are counted in is read; on the event loop.
        """
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        kinds, *columns = zip(*rows, strict=True)
        totals, computes, _, queues, _, _ = columns
        sums = [sum(column) for column in columns]
        self.total.add(len(rows), *sums)
        in_order = sorted(totals)
        self.duration.add_all(in_order)
        self.timeline.add_all(in_order)
        self.compute.add_all(sorted(computes))
        self.queue.add_all(sorted(queues))
        self.coordination.add_all(sorted(map(sub, totals, computes)))
        if kinds.count(kinds[0]) == len(kinds):
            kinds[0].add(len(rows), *sums)
            return
        by_kind: dict[TypeActivity, list[_Row]] = {}
        for row in rows:
            by_kind.setdefault(row[0], []).append(row)
        for kind, each in by_kind.items():
            kind.add_all(each)

    def _type_of(self, name: str) -> TypeActivity:
        if self.is_component:
            name = name.partition(" ")[0]
        name = cut(name)
        kind = self.types.get(name)
        if kind is None:
            name = name if len(self.types) < MOST_TYPES else ""
            kind = self.types.setdefault(name, TypeActivity())
        return kind

    def _fail(self, span: Span, error: PlexSpacesError | ActorError) -> None:
        span.error = (cut(error.code), cut(error.message))
        tree = _identified(span, self.version)
        self.failures_kept.append(
            Failure(
                self._telemetry.unix_ns(perf_counter_ns()),
                span.name,
                _origin_of(error),
                span.error[0],
                cut(error.message, _FAILURE_CHARS),
                tree.trace_id,
            )
        )

    def _keep(self, span: Span) -> Tree:
        """Keep a message that is traced, has failed, or is one of the slowest; return its tree."""
        tree = _identified(span, self.version)
        if span.is_cold:
            # It may have waited for another version than ran when it came.
            span.version = self.version
        if span.total_ns > self.traces.floor_ns:
            self.traces.add_slow(span)
        if tree.is_sampled:
            self.traces.add(span)
            if self._telemetry.export is not None:
                self._telemetry.export(Ended(span, is_request=self.is_component))
        elif span.error is not None:
            self.traces.add(span)
        return tree

    # ---- starts ------------------------------------------------------------------------

    def started(self, start: Start) -> None:
        """Keep an attempt to bring the application up, and count the phases of one that worked."""
        self.starts.append(start._replace(cause=cut(start.cause), error=cut(start.error)))
        if not start.error:
            self.version = start.version
            self._telemetry.began(start.timings)

    def complete_start(self, timings: PhaseTimings) -> None:
        """Add to the last start what came before it: its upload, and the whole."""
        if self.starts:
            self.starts[-1] = self.starts[-1]._replace(timings=timings)
        if timings.upload_ns:
            self._telemetry.phases["upload"].add(timings.upload_ns)

    # ---- over time ---------------------------------------------------------------------

    def _touch(self) -> None:
        if not self._is_touched:
            self._is_touched = True
            self.timeline.begin()
            self._telemetry.touched.append(self)

    def tick(self, now_ns: int, unix_ns: int, duration_ns: int) -> bool:
        """End a moment; return whether there was nothing in it, so that the next ones are empty."""
        self.settle()
        self.traces.forget_old(now_ns)
        is_idle = self.timeline.end_moment(self.spent, unix_ns, duration_ns)
        self._is_touched = not is_idle
        return is_idle


def _origin_of(error: PlexSpacesError | ActorError) -> str:
    if isinstance(error, ActorTrapped):
        return "trapped"
    return "failed" if isinstance(error, ActorError) else "platform"


def _identified(span: Span, version: str) -> Tree:
    """Give a message ids that it has not, because it is kept; return its tree.

    It has ended, or has failed: its name goes nowhere any more, and is cut.
    """
    span.name = cut(span.name)
    tree = span.identify()
    # One that has ids since it caused something has no version yet.
    span.version = span.version or version
    return tree
