"""The quotas of a cluster: set at any node, in force at all of them.

Each node holds those who use it to the whole quota; nodes do not add up what is used of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.cluster.grant_records import (
    encode_quotas,
    quota_key,
    read_quotas,
    subject_of_key,
)
from plexspaces_node.node.cluster.shared import AGAIN_S, Shared
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.node.registry.quotas import QuotaRows
from plexspaces_node.quota import Key, Subject

_TRIES = 10


class SharedQuotas:
    """Writes the quotas of a node into the cluster's bucket; a `QuotaStore`.

    Attributes:
        shared: what puts them into force here.
    """

    def __init__(
        self, bucket: Bucket, rows: QuotaRows, upkeep: QuotaUpkeep, *, again_s: float = AGAIN_S
    ) -> None:
        self.shared = Shared(bucket, "quotas", self._apply, again_s=again_s)
        self._rows = rows
        self._upkeep = upkeep

    def __repr__(self) -> str:
        return f"<SharedQuotas {self.shared!r}>"

    async def store(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Write some quotas of a subject, 0 to remove one; raises `Unavailable`.

        Others that are set at the same time at another node stay.
        """
        key = quota_key(subject)
        for _ in range(_TRIES):
            found = await self.shared.get(key)
            before = _read(found)
            values = {each: limit for each, limit in {**before, **changes}.items() if limit}
            try:
                if found is None and values:
                    await self.shared.create(key, encode_quotas(values))
                elif found is not None and values:
                    await self.shared.update(key, encode_quotas(values), found.revision)
                elif found is not None:
                    await self.shared.delete(key, found.revision)
            except Conflict:
                continue
            return
        raise Unavailable(
            f"the quotas of {subject} are being changed at other nodes",
            hint=f"plexspaces quota show {subject.flags}, and again",
        )

    def end_untold(self, subjects: Iterable[Subject]) -> None:
        """End the quotas that the cluster does not have; once everything was told."""
        self.shared.end_untold(map(quota_key, subjects))

    async def _apply(self, entry: Entry) -> None:
        subject = subject_of_key(entry.key)
        values = {} if entry.value is None else read_quotas(entry.value)
        self._upkeep.apply(subject, {**dict.fromkeys(Key, 0), **values})
        await self._rows.replace(subject, values)


def _read(found: Entry | None) -> Mapping[Key, int]:
    """Return the quotas in a record; none for one that is replaced because it is none."""
    if found is None or found.value is None:
        return {}
    try:
        return read_quotas(found.value)
    except InvalidArgument:
        return {}
