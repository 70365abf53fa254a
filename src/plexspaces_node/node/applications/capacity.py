"""How much a node can have: applications, empty VMs, and the memory of all VMs together.

The same within the quotas of a tenant and of an application. Whatever is being created counts from
the request until it exists or has failed, so that a limit holds for any number of concurrent
requests. Only knows numbers and names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.model import VmConfig, split_name
from plexspaces_node.quota import Key, Subject, application_of, check_total, tenant_of


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
        vcpus: the virtual CPUs of each application's VM by name.
    """

    applications: Mapping[str, int]
    empty_vms: Mapping[str, int]
    vcpus: Mapping[str, int] = field(default_factory=dict)

    def of(self, subject: Subject) -> Mapping[Key, int]:
        """Return what a tenant or an application has."""
        if subject.application:
            names = [subject.full] if subject.full in self.applications else []
        else:
            names = [one for one in self.applications if split_name(one)[0] == subject.tenant]
        return {
            Key.APPLICATIONS: len(names),
            Key.MEMORY_MIB: sum(self.applications[name] for name in names),
            Key.VCPUS: sum(self.vcpus.get(name, 0) for name in names),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """What is being created: an application, perhaps in an empty VM, or an empty VM."""

    application: str
    vm_id: str
    memory_mib: int
    vcpus: int = 0
    artifact: str = ""


class Capacity:
    """Checks whether one more fits. Used only on the event loop."""

    def __init__(
        self,
        bounds: Bounds,
        held: Callable[[], Held],
        quota: Callable[[Subject, Key], int] = lambda _subject, _key: 0,
    ) -> None:
        """`held` says what there is; `quota` returns a quota, 0 for none."""
        self._bounds = bounds
        self._held = held
        self._quota = quota
        self._claims: list[_Claim] = []

    def __repr__(self) -> str:
        return f"<Capacity {self._bounds} {len(self._claims)} being made>"

    @contextmanager
    def for_application(
        self, name: str, size: VmConfig, *, vm_id: str = "", artifact: str = ""
    ) -> Iterator[frozenset[str]]:
        """Reserve capacity for an application while it is deployed or started.

        `vm_id` is an existing empty VM that becomes the application's. Yields the artifacts of the
        other applications of its tenant that are being deployed. Raises `ResourceExhausted` if one
        more application, or the additional memory, does not fit, into the node or into a quota.
        """
        memory_mib = size.memory_mib
        if vm_id:
            memory_mib = self._held().empty_vms.get(vm_id, memory_mib)
        tenant = tenant_of(name)
        others = frozenset(
            one.artifact
            for one in self._claims
            if one.artifact and one.application != name and tenant_of(one.application) == tenant
        )
        with self._claimed(_Claim(name, vm_id, memory_mib, size.vcpus, artifact)):
            yield others

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
            after = self._with_claims()
            self._check(before, after)
            if claim.application:
                self._check_quotas(claim.application, before, after)
            yield
        finally:
            self._claims.remove(claim)

    def _with_claims(self) -> Held:
        held = self._held()
        applications, empties = dict(held.applications), dict(held.empty_vms)
        vcpus = dict(held.vcpus)
        for claim in self._claims:
            if claim.application:
                applications[claim.application] = claim.memory_mib
                vcpus[claim.application] = claim.vcpus
                empties.pop(claim.vm_id, None)
            else:
                empties[claim.vm_id] = claim.memory_mib
        return Held(applications, empties, vcpus)

    def _check_quotas(self, name: str, before: Held, after: Held) -> None:
        for subject in (application_of(name), tenant_of(name)):
            had, wanted = before.of(subject), after.of(subject)
            for key in wanted:
                limit = self._quota(subject, key)
                check_total(subject, key, limit, had=had[key], wanted=wanted[key])

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
                # Not how much they have: that would tell one tenant of the others.
                f"{wanted_mib - had_mib} MiB more would exceed this node's limit of "
                f"{most.memory_mib} MiB for all VMs",
                hint="stop an application, deploy with less --memory, or raise [limits] memory_mib",
            )


def _memory_of(held: Held) -> int:
    return sum(held.applications.values()) + sum(held.empty_vms.values())
