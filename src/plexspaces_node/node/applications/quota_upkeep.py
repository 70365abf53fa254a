"""Quotas as users set and see them: written down, put into force, and what is used of each.

What is refused on the way of messages is in `quotas`, and what a deploy is refused in `capacity`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence, Set
from time import perf_counter_ns
from typing import Protocol

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.quotas import Meter
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.quota import (
    Key,
    QuotaUse,
    Subject,
    SubjectUse,
    application_of,
    check_total,
    checked,
    tenant_of,
)
from plexspaces_node.tasks import finished

_MEASURE_S = 0.2


class QuotaStore(Protocol):
    """Where quotas are written; as `QuotaRows` says it."""

    async def store(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Write some quotas of a subject, 0 to remove one; they survive a power loss."""


class QuotaUpkeep:
    """Sets the quotas of a node and tells their use. Used on the event loop."""

    def __init__(self, node: NodeContext, roster: Roster) -> None:
        self._node = node
        self._roster = roster
        self._store: QuotaStore | None = None
        node.quotas.in_flight = roster.in_flight

    def __repr__(self) -> str:
        return f"<QuotaUpkeep {self._node.quotas!r}>"

    async def set(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Set some quotas of a tenant or an application, 0 to remove one; survives the node.

        The application need not exist yet. What runs keeps running; what comes is held to them.
        Raises `InvalidArgument`, and errors of the registry.
        """
        subject.check()
        if not changes:
            raise InvalidArgument(
                "no quota is named", hint="for example: messages_per_s=100 memory_mib=2GiB"
            )
        values = {key: checked(key, value) for key, value in changes.items()}
        await finished(self._put_into_force(subject, values))

    async def _put_into_force(self, subject: Subject, values: Mapping[Key, int]) -> None:
        await (self._store or self._node.registry.quotas).store(subject, values)
        self.apply(subject, values)

    def share(self, store: QuotaStore) -> None:
        """Write them there from now on: the node is one of a cluster. See `apply`."""
        self._store = store

    def apply(self, subject: Subject, values: Mapping[Key, int]) -> None:
        """Put quotas into force that are written, 0 to remove one."""
        self._node.quotas.change(subject, values)
        if Key.LOG_BYTES in values:
            for supervisor in self._roster.of(subject):
                self._bound_log(supervisor)

    def subjects(self, tenant: str = "") -> list[Subject]:
        """Return a tenant and those of its applications that have quotas; all of all for ""."""
        known = {tenant_of(name) for name in self._roster.applications}
        bounded = self._node.quotas.bounded()
        known |= {Subject(one.tenant) for one in bounded}
        if tenant:
            known = {Subject(tenant)}
        known |= {one for one in bounded if Subject(one.tenant) in known}
        return sorted(known, key=lambda one: (one.tenant, one.application))

    async def use(self, subject: Subject) -> SubjectUse:
        """Return every quota of a tenant or an application with what is used of it now."""
        subject.check()
        limits, used = self._node.quotas.limits(subject), await self._used(subject, frozenset(Key))
        shares = self._node.shares
        uses = [
            QuotaUse(
                key,
                limits.get(key, 0),
                used.get(key, 0),
                enforced=key is not Key.CPU_PERCENT or shares.enforced,
                note=shares.note if key is Key.CPU_PERCENT else "",
            )
            for key in Key
        ]
        return SubjectUse(subject, tuple(uses))

    async def bounded(self) -> Sequence[SubjectUse]:
        """Return every quota that is set with what is used of it now.

        Except of `cpu_percent`, which takes a while to measure: that is 0.
        """
        each = []
        for subject in sorted(self._node.quotas.bounded(), key=str):
            limits = dict(self._node.quotas.limits(subject))
            used = await self._used(subject, frozenset(limits) - {Key.CPU_PERCENT})
            uses = (QuotaUse(key, limit, used.get(key, 0)) for key, limit in limits.items())
            each.append(SubjectUse(subject, tuple(uses)))
        return each

    def check_upload(self, tenant: str, size_bytes: int) -> None:
        """Raise `ResourceExhausted` for an artifact that no deploy of a tenant could have."""
        subject, key = Subject(tenant), Key.ARTIFACT_BYTES
        check_total(subject, key, self._node.quotas.limit(subject, key), had=0, wanted=size_bytes)

    async def check_artifacts(self, name: str, artifact: str, others: Iterable[str]) -> None:
        """Raise `ResourceExhausted` if a deploy's artifact exceeds a quota.

        `others` are the artifacts of the tenant's other applications that are being deployed.
        """
        own, tenant = application_of(name), tenant_of(name)
        key, limit = Key.ARTIFACT_BYTES, self._node.quotas.limit
        if not (limit(own, key) or limit(tenant, key)):
            return
        before = self._roster.applications.get(name)
        replaced = {before.record.artifact} if before is not None else set()
        had = await self._size_of(replaced)
        check_total(own, key, limit(own, key), had=had, wanted=await self._size_of({artifact}))
        kept = {one.record.artifact for one in self._roster.of(tenant) if one.name != name}
        kept |= set(others)
        had = await self._size_of(kept | replaced)
        wanted = await self._size_of(kept | {artifact})
        check_total(tenant, key, limit(tenant, key), had=had, wanted=wanted)

    def bound_logs(self, name: str) -> None:
        """Give the logs of an application's tenant their bounds anew, because their number changed.

        Also after the application is gone.
        """
        tenant = tenant_of(name)
        if self._node.quotas.limit(tenant, Key.LOG_BYTES):
            for supervisor in self._roster.of(tenant):
                self._bound_log(supervisor)
        elif (known := self._roster.applications.get(name)) is not None:
            self._bound_log(known)

    def _bound_log(self, supervisor: Supervisor) -> None:
        beside = len(self._roster.of(tenant_of(supervisor.name)))
        most = self._node.limits.log_bytes
        bound = self._node.quotas.log_bytes(supervisor.name, beside=beside, most=most)
        supervisor.journal.bound(bound)

    async def _size_of(self, artifacts: Iterable[str]) -> int:
        return sum([await self._node.artifacts.size_bytes(name) for name in set(artifacts)])

    async def _used(self, subject: Subject, keys: Set[Key]) -> dict[Key, int]:
        """Measure what is used of these, and of others that cost nothing."""
        found = self._roster.of(subject)
        meter = self._node.quotas.find(subject) or Meter(subject)
        now_ns = self._node.quotas.now_ns
        used = {
            **self._roster.held().of(subject),
            Key.MESSAGES_PER_S: 0 if meter.messages is None else meter.messages.used(now_ns),
            Key.IN_FLIGHT: self._roster.in_flight(subject),
            Key.OUTGOING_CALLS: meter.calls,
            Key.OUTGOING_BYTES: 0 if meter.bandwidth is None else meter.bandwidth.used(now_ns),
        }
        if Key.ARTIFACT_BYTES in keys:
            used[Key.ARTIFACT_BYTES] = await self._size_of(one.record.artifact for one in found)
        if keys & {Key.KEYVALUE_BYTES, Key.KEYVALUE_KEYS}:
            names = [subject.full] if subject.application else []
            tenant, each = await self._node.registry.quotas.stores(subject.tenant, names)
            store = each[0] if each else tenant
            used |= {Key.KEYVALUE_BYTES: store.bytes, Key.KEYVALUE_KEYS: store.keys}
        if Key.LOG_BYTES in keys:
            used[Key.LOG_BYTES] = await asyncio.to_thread(
                lambda: sum(one.journal.size_bytes for one in found)
            )
        if Key.CPU_PERCENT in keys:
            used[Key.CPU_PERCENT] = await self._cpu_percent(subject)
        return used

    async def _cpu_percent(self, subject: Subject) -> int:
        """Measure for `_MEASURE_S` how much of a CPU the VMs use."""
        shares = self._node.shares
        if not shares.enforced:
            return 0
        begin_us, begin_ns = shares.cpu_us(subject), perf_counter_ns()
        await asyncio.sleep(_MEASURE_S)
        used_us = shares.cpu_us(subject) - begin_us
        return round(max(0, used_us) * 100_000 / (perf_counter_ns() - begin_ns))
