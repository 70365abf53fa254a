"""How much of an actor's time was coordination and how much was compute.

This module adds up times that were measured elsewhere. It does not know where times come from or
how a report is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    """The totals of a tracker, in nanoseconds.

    Attributes:
        compute_ns: in the application's own code.
        vm_ns: coordination spent on starting the VM.
        upload_ns: coordination spent on uploading the artifact; 0 if the node had it.
        compile_ns: coordination spent on compiling it; 0 if it had been compiled before.
        load_ns: coordination spent on loading the application into the VM.
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
        """Compute over the coordination of messages: what a long-lived actor approaches."""
        return _quotient(self.compute_ns, self.messages_ns)

    @property
    def efficiency(self) -> float:
        """Compute over total, from 0 to 1; NaN if nothing was measured."""
        return _quotient(self.compute_ns, self.total_ns)

    @classmethod
    def combined(
        cls, reports: Iterable[PerformanceReport], *, actor_id: str, language: str
    ) -> PerformanceReport:
        """Return the sum of several reports under another name."""
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

    Not thread-safe.
    """

    def __init__(self, actor_id: str, language: str = "unknown") -> None:
        self._actor_id = actor_id
        self._language = language
        self._coordinate_ns = dict.fromkeys(Coordination, 0)
        self._compute_ns = 0
        self._messages = 0
        self._finalized = False

    def __repr__(self) -> str:
        state = "finalized" if self._finalized else "open"
        return f"<CoordinationComputeTracker {self._actor_id!r} {state}>"

    def add_coordinate_ns(
        self, duration_ns: int, *, kind: Coordination = Coordination.MESSAGES
    ) -> None:
        """Add coordination time; raises `InvalidArgument` below 0."""
        self._coordinate_ns[kind] += self._measured(duration_ns)

    def add_compute_ns(self, duration_ns: int) -> None:
        """Add compute time; raises `InvalidArgument` below 0."""
        self._compute_ns += self._measured(duration_ns)

    def increment_message(self) -> None:
        """Count an answered message."""
        self._check_not_finalized()
        self._messages += 1

    def finalize(self) -> PerformanceReport:
        """Return the report and accept no more times. Further calls return the same report."""
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


def _quotient(part: int, whole: int) -> float:
    if whole:
        return part / whole
    return math.inf if part else math.nan
