"""How much of an actor's time was coordination and how much was compute.

This file owns the bookkeeping and its arithmetic. It only adds up what was measured, by its own
clock or elsewhere, and knows nothing of where times come from or how a report is shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from plexspaces_node.errors import InvalidArgument, WrongState


class Coordination(StrEnum):
    """What coordination time was spent on."""

    VM = "vm"
    UPLOAD = "upload"
    COMPILE = "compile"
    LOAD = "load"
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class PerformanceReport:
    """What a tracker added up, in nanoseconds.

    Attributes:
        compute_ns: inside the actor's own code.
        vm_ns: coordination spent on making the machine.
        upload_ns: coordination spent on sending the artifact; 0 when the node had it.
        compile_ns: coordination spent on compiling it; 0 when that was done before.
        load_ns: coordination spent on bringing the application into the machine.
        messages_ns: coordination spent on passing messages.
        messages: how many messages were answered.
    """

    actor_id: str
    language: str
    compute_ns: int
    vm_ns: int
    upload_ns: int
    compile_ns: int
    load_ns: int
    messages_ns: int
    messages: int

    @property
    def coordinate_ns(self) -> int:
        """All coordination time."""
        deploy_ns = self.vm_ns + self.upload_ns + self.compile_ns + self.load_ns
        return deploy_ns + self.messages_ns

    @property
    def total_ns(self) -> int:
        """Coordination and compute together."""
        return self.compute_ns + self.coordinate_ns

    @property
    def granularity_ratio(self) -> float:
        """Compute over coordination; infinite without coordination, NaN without either."""
        return _quotient(self.compute_ns, self.coordinate_ns)

    @property
    def ratio_without_deployment(self) -> float:
        """Compute over the coordination of messages alone: what a long-lived actor comes to."""
        return _quotient(self.compute_ns, self.messages_ns)

    @property
    def efficiency(self) -> float:
        """Compute over total, from 0 to 1; NaN when nothing was measured."""
        return _quotient(self.compute_ns, self.total_ns)

    @classmethod
    def combined(
        cls, reports: Iterable[PerformanceReport], *, actor_id: str, language: str
    ) -> PerformanceReport:
        """Return the sum of several reports under a name of its own."""
        each = tuple(reports)
        return cls(
            actor_id=actor_id,
            language=language,
            compute_ns=sum(report.compute_ns for report in each),
            vm_ns=sum(report.vm_ns for report in each),
            upload_ns=sum(report.upload_ns for report in each),
            compile_ns=sum(report.compile_ns for report in each),
            load_ns=sum(report.load_ns for report in each),
            messages_ns=sum(report.messages_ns for report in each),
            messages=sum(report.messages for report in each),
        )


class CoordinationComputeTracker:
    """Adds up the coordination and compute times of one actor.

    At most one span is open at a time, so that no moment is counted twice. Not for use by two
    threads at once.
    """

    def __init__(
        self,
        actor_id: str,
        language: str = "unknown",
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._actor_id = actor_id
        self._language = language
        self._clock = clock
        self._coordinate_ns = dict.fromkeys(Coordination, 0)
        self._compute_ns = 0
        self._messages = 0
        self._open: _Span | None = None
        self._finalized = False

    def __repr__(self) -> str:
        state = "finalized" if self._finalized else self._open.what if self._open else "idle"
        return f"<CoordinationComputeTracker {self._actor_id!r} {state}>"

    def start_coordinate(self, kind: str = Coordination.MESSAGES) -> None:
        """Open a span of coordination; raises `WrongState` while any span is open."""
        self._start("coordinate", _kind(kind))

    def end_coordinate(self) -> int:
        """Close the span of coordination and return its length in nanoseconds.

        Raises `WrongState` when none is open.
        """
        return self._end("coordinate")

    def start_compute(self) -> None:
        """Open a span of compute; raises `WrongState` while any span is open."""
        self._start("compute", None)

    def end_compute(self) -> int:
        """Close the span of compute and return its length in nanoseconds.

        Raises `WrongState` when none is open.
        """
        return self._end("compute")

    @contextmanager
    def coordinate(self, kind: str = Coordination.MESSAGES) -> Iterator[None]:
        """Measure the body as coordination, also when it raises."""
        self.start_coordinate(kind)
        try:
            yield
        finally:
            self.end_coordinate()

    @contextmanager
    def compute(self) -> Iterator[None]:
        """Measure the body as compute, also when it raises."""
        self.start_compute()
        try:
            yield
        finally:
            self.end_compute()

    def add_coordinate_ns(self, duration_ns: int, *, kind: str = Coordination.MESSAGES) -> None:
        """Add coordination that was measured elsewhere; raises `InvalidArgument` below 0."""
        self._coordinate_ns[_kind(kind)] += self._measured(duration_ns)

    def add_compute_ns(self, duration_ns: int) -> None:
        """Add compute that was measured elsewhere; raises `InvalidArgument` below 0."""
        self._compute_ns += self._measured(duration_ns)

    def increment_message(self) -> None:
        """Count a message that was answered."""
        self._check_not_finalized()
        self._messages += 1

    def finalize(self) -> PerformanceReport:
        """Return the report and take no more times; asked again, it gives the same answer.

        Raises `WrongState` while a span is open.
        """
        if self._open is not None:
            raise WrongState(
                f"{self._open.what} of {self._actor_id} has not ended",
                hint=f"call end_{self._open.what}() before finalize()",
            )
        self._finalized = True
        return PerformanceReport(
            actor_id=self._actor_id,
            language=self._language,
            compute_ns=self._compute_ns,
            vm_ns=self._coordinate_ns[Coordination.VM],
            upload_ns=self._coordinate_ns[Coordination.UPLOAD],
            compile_ns=self._coordinate_ns[Coordination.COMPILE],
            load_ns=self._coordinate_ns[Coordination.LOAD],
            messages_ns=self._coordinate_ns[Coordination.MESSAGES],
            messages=self._messages,
        )

    def _start(self, what: str, kind: Coordination | None) -> None:
        self._check_not_finalized()
        if self._open is not None:
            raise WrongState(
                f"{what} of {self._actor_id} cannot start: {self._open.what} has not ended",
                hint=f"call end_{self._open.what}() first",
            )
        self._open = _Span(what, kind, self._clock())

    def _end(self, what: str) -> int:
        now = self._clock()
        span = self._open
        if span is None or span.what != what:
            raise WrongState(
                f"{what} of {self._actor_id} has not started", hint=f"call start_{what}() first"
            )
        self._open = None
        duration_ns = now - span.start_ns
        if span.kind is None:
            self._compute_ns += duration_ns
        else:
            self._coordinate_ns[span.kind] += duration_ns
        return duration_ns

    def _measured(self, duration_ns: int) -> int:
        self._check_not_finalized()
        if duration_ns < 0:
            raise InvalidArgument(f"a duration cannot be {duration_ns} ns")
        return duration_ns

    def _check_not_finalized(self) -> None:
        if self._finalized:
            raise WrongState(
                f"the report of {self._actor_id} is final", hint="make a new tracker for more times"
            )


@dataclass(frozen=True, slots=True)
class _Span:
    what: str
    kind: Coordination | None
    start_ns: int


def _kind(name: str) -> Coordination:
    try:
        return Coordination(name)
    except ValueError as error:
        raise InvalidArgument(
            f"coordination kind {name!r} is not known",
            hint=f"choose one of {', '.join(Coordination)}",
        ) from error


def _quotient(part: int, whole: int) -> float:
    if whole:
        return part / whole
    return math.inf if part else math.nan
