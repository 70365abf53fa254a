"""How much a node can have: applications, empty VMs, and the memory of all VMs together.

Whatever is being created counts from the request until it exists or has failed, so that a limit
holds for any number of concurrent requests. Only knows numbers and names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from plexspaces_node.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a node."""

    applications: int
    empty_vms: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a node has now.

    Attributes:
        applications: the memory in MiB of each one's VM by name; 0 without a VM.
        empty_vms: the memory in MiB of each empty VM by id.
    """

    applications: Mapping[str, int]
    empty_vms: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """What is being created: an application, perhaps in an empty VM, or an empty VM."""

    application: str
    vm_id: str
    memory_mib: int


class Capacity:
    """Checks whether one more fits. Used only on the event loop."""

    def __init__(self, bounds: Bounds, held: Callable[[], Held]) -> None:
        self._bounds = bounds
        self._held = held
        self._claims: list[_Claim] = []

    def __repr__(self) -> str:
        return f"<Capacity {self._bounds} {len(self._claims)} being made>"

    @contextmanager
    def for_application(self, name: str, memory_mib: int, *, vm_id: str = "") -> Iterator[None]:
        """Reserve capacity for an application while it is deployed or started.

        `vm_id` is an existing empty VM that becomes the application's. Raises `ResourceExhausted`
        if one more application, or the additional memory, does not fit.
        """
        if vm_id:
            memory_mib = self._held().empty_vms.get(vm_id, memory_mib)
        with self._claimed(_Claim(name, vm_id, memory_mib)):
            yield

    @contextmanager
    def for_empty_vm(self, vm_id: str, memory_mib: int) -> Iterator[None]:
        """Reserve capacity for an empty VM while it is started; see `for_application`."""
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
        # A VM that needs no more than before always fits, even if a limit was lowered meanwhile.
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
