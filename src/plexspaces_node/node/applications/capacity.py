"""What a node has room for: applications, empty machines, and the memory of all machines together.

What is being made counts from the moment it is asked for until it is there or has failed, so that
a bound holds however many ask at once. Knows numbers and names; what they stand for is told to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from plexspaces_node.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a node takes."""

    applications: int
    empty_vms: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a node has now.

    Attributes:
        applications: the memory in MiB of each one's machine by name, 0 for one without a machine.
        empty_vms: the memory in MiB of each empty machine by id.
    """

    applications: Mapping[str, int]
    empty_vms: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """What is being made: an application, perhaps in an empty machine, or an empty machine."""

    application: str
    vm_id: str
    memory_mib: int


class Capacity:
    """Says whether there is room for one more. Used on the event loop alone."""

    def __init__(self, bounds: Bounds, held: Callable[[], Held]) -> None:
        self._bounds = bounds
        self._held = held
        self._claims: list[_Claim] = []

    def __repr__(self) -> str:
        return f"<Capacity {self._bounds} {len(self._claims)} being made>"

    @contextmanager
    def for_application(self, name: str, memory_mib: int, *, vm_id: str = "") -> Iterator[None]:
        """Keep room for an application while it is deployed or started.

        `vm_id` is an empty machine that is here and becomes the application's. Raises
        `ResourceExhausted` when there is no room for one more, or for what it takes more than
        it has.
        """
        if vm_id:
            memory_mib = self._held().empty_vms.get(vm_id, memory_mib)
        with self._claimed(_Claim(name, vm_id, memory_mib)):
            yield

    @contextmanager
    def for_empty_vm(self, vm_id: str, memory_mib: int) -> Iterator[None]:
        """Keep room for an empty machine while it is started; raises as `for_application` does."""
        with self._claimed(_Claim("", vm_id, memory_mib)):
            yield

    @contextmanager
    def _claimed(self, claim: _Claim) -> Iterator[None]:
        before = self._with_claims()
        self._claims.append(claim)
        try:
            self._check(before, self._with_claims())
            yield
        finally:
            self._claims.remove(claim)

    def _with_claims(self) -> Held:
        held = self._held()
        applications, empties = dict(held.applications), dict(held.empty_vms)
        for claim in self._claims:
            if claim.application:
                applications[claim.application] = claim.memory_mib
                empties.pop(claim.vm_id, None)
            else:
                empties[claim.vm_id] = claim.memory_mib
        return Held(applications, empties)

    def _check(self, before: Held, after: Held) -> None:
        # What takes no more than before passes, also where a bound was lowered meanwhile.
        most = self._bounds
        if len(before.applications) < len(after.applications) > most.applications:
            raise ResourceExhausted(
                f"the node has {len(before.applications)} applications, including those being "
                "deployed: its limit is reached",
                hint="plexspaces undeploy --name X, or raise [limits] applications",
            )
        if len(before.empty_vms) < len(after.empty_vms) > most.empty_vms:
            raise ResourceExhausted(
                f"the node has {len(before.empty_vms)} empty VMs: its limit is reached",
                hint="deploy into one, stop one, or raise [limits] empty_vms",
            )
        had_mib, wanted_mib = _memory_of(before), _memory_of(after)
        if had_mib < wanted_mib > most.memory_mib:
            raise ResourceExhausted(
                f"the VMs of this node have {had_mib} MiB in total, {wanted_mib - had_mib} MiB "
                f"more would exceed its limit of {most.memory_mib}",
                hint="stop an application, deploy with less --memory, or raise [limits] memory_mib",
            )


def _memory_of(held: Held) -> int:
    return sum(held.applications.values()) + sum(held.empty_vms.values())
