"""Quotas: what they can bound, whom they bound, and how their values are written.

This module defines the words that node, clients and the command line share. It knows nothing of how
a quota is enforced; see `node/applications/quotas.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from plexspaces_node.errors import InvalidArgument, ResourceExhausted
from plexspaces_node.model import MIB, check_name, full_name, split_name

MOST = 2**53 - 1
"""The largest value: what every reader of JSON can represent."""
LEAST_LOG_BYTES = 4096
LEAST_BANDWIDTH = 1024
"""In bytes per second; with less, a single piece of a body would take minutes."""

_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]+)?) ?([A-Za-z%/]*)")
_BYTES = {
    **{"": 1, "B": 1},
    **{"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40},
    **{"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40},
}


class Key(StrEnum):
    """What a quota can bound."""

    APPLICATIONS = "applications"
    MEMORY_MIB = "memory_mib"
    VCPUS = "vcpus"
    ARTIFACT_BYTES = "artifact_bytes"
    KEYVALUE_BYTES = "keyvalue_bytes"
    KEYVALUE_KEYS = "keyvalue_keys"
    LOG_BYTES = "log_bytes"
    MESSAGES_PER_S = "messages_per_s"
    IN_FLIGHT = "in_flight"
    OUTGOING_CALLS = "outgoing_calls"
    OUTGOING_BYTES = "outgoing_bytes"
    CPU_PERCENT = "cpu_percent"


MEANINGS: dict[Key, str] = {
    Key.APPLICATIONS: "applications, running or stopped",
    Key.MEMORY_MIB: "memory of the VMs, in MiB",
    Key.VCPUS: "virtual CPUs of the VMs",
    Key.ARTIFACT_BYTES: "artifacts that applications use, in bytes",
    Key.KEYVALUE_BYTES: "keys and values, in bytes on disk",
    Key.KEYVALUE_KEYS: "keys",
    Key.LOG_BYTES: "logs on disk, in bytes",
    Key.MESSAGES_PER_S: "messages and requests received per second",
    Key.IN_FLIGHT: "messages in flight",
    Key.OUTGOING_CALLS: "outgoing HTTP requests at once",
    Key.OUTGOING_BYTES: "outgoing HTTP bodies, both ways, in bytes per second",
    Key.CPU_PERCENT: "processor time, in percent of one CPU",
}
"""Every key, in the order in which it is shown."""

IN_BYTES = frozenset(
    {Key.ARTIFACT_BYTES, Key.KEYVALUE_BYTES, Key.LOG_BYTES, Key.OUTGOING_BYTES, Key.MEMORY_MIB}
)
"""Keys whose values can have a unit such as GiB."""

_LEAST = {Key.LOG_BYTES: LEAST_LOG_BYTES, Key.OUTGOING_BYTES: LEAST_BANDWIDTH}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a quota bounds: a tenant as a whole, or one application of it.

    Attributes:
        application: its name within the tenant, or "" for the tenant.
    """

    tenant: str
    application: str = ""

    def __str__(self) -> str:
        return f"application {self.full!r}" if self.application else f"tenant {self.tenant!r}"

    @property
    def full(self) -> str:
        """The full name of the application, "" for a tenant."""
        return full_name(self.tenant, self.application) if self.application else ""

    @property
    def flags(self) -> str:
        """The flags of the command line that name it."""
        application = f" --application {self.application}" if self.application else ""
        return f"--tenant {self.tenant}{application}"

    def check(self) -> None:
        """Raise `InvalidArgument` for names that no tenant or application can have."""
        check_name(self.tenant, what="tenant")
        if self.application:
            check_name(self.application)


def tenant_of(name: str) -> Subject:
    """Return the tenant of an application's full name."""
    return Subject(split_name(name)[0])


def application_of(name: str) -> Subject:
    """Return an application by its full name."""
    return Subject(*split_name(name))


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """One quota of a subject.

    Attributes:
        limit: 0 without a quota: then only the node's own limits hold.
        used: how much of it is used now; of a rate, in the last second.
        enforced: whether this node can enforce it; otherwise `note` says why not.
        note: one line, or "".
    """

    key: Key
    limit: int = 0
    used: int = 0
    enforced: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class SubjectUse:
    """The quotas of a tenant or an application: every key, in the order of `Key`."""

    subject: Subject
    quotas: tuple[QuotaUse, ...]


def exceeded(
    subject: Subject, key: Key, limit: int, why: str, *, retry_after_s: float | None = None
) -> ResourceExhausted:
    """Return the error of a request that would exceed a quota."""
    return ResourceExhausted(
        f"{subject} has reached its quota {key}={limit}: {why}",
        hint=f"plexspaces quota show {subject.flags}",
        retry_after_s=retry_after_s,
    )


def check_total(subject: Subject, key: Key, limit: int, *, had: int, wanted: int) -> None:
    """Raise `ResourceExhausted` if a total grows beyond a quota, 0 for none.

    One that does not grow is never refused, even if the quota was lowered meanwhile.
    """
    if limit and had < wanted > limit:
        why = f"it has {shown(key, had)} and would have {shown(key, wanted)}"
        raise exceeded(subject, key, limit, why)


def key_of(word: str) -> Key:
    """Return the key of this name; raises `InvalidArgument`."""
    try:
        return Key(word)
    except ValueError:
        raise InvalidArgument(
            f"there is no quota {word!r}", hint=f"choose one of: {', '.join(Key)}"
        ) from None


def checked(key: Key, value: int) -> int:
    """Return a value if this key can have it, 0 for none; raises `InvalidArgument`."""
    least = _LEAST.get(key, 1)
    if value and not least <= value <= MOST:
        raise InvalidArgument(
            f"{key} must be from {least} to {MOST}, not {value}",
            hint=f"{key}={least} is the least; {key}=none removes the quota",
        )
    return value


def parsed(key: Key, text: str) -> int:
    """Return the value that a user writes: a number, with a unit for bytes, or `none` for 0.

    Raises `InvalidArgument`.
    """
    if text.lower() == "none":
        return 0
    found = _NUMBER.fullmatch(text.strip())
    value = None if found is None else _value(key, found[1], found[2])
    if value is None:
        example = "2GiB" if key in IN_BYTES else "100"
        raise InvalidArgument(
            f"{key} cannot be {text!r}", hint=f"for example {key}={example}, or {key}=none"
        )
    if not value:
        # 0 means no quota inside; who writes it may mean the opposite.
        raise InvalidArgument(
            f"{key} cannot be 0",
            hint=f"{key}=none removes the quota; plexspaces stop NAME stops an application",
        )
    return checked(key, value)


def shown(key: Key, value: int) -> str:
    """Return a value for people: `2 GiB`, `100`."""
    if key is Key.CPU_PERCENT:
        return f"{value} %"
    if key not in IN_BYTES:
        return str(value)
    size = value * MIB if key is Key.MEMORY_MIB else value
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"


def _value(key: Key, number: str, unit: str) -> int | None:
    if key is Key.CPU_PERCENT and unit == "%":
        unit = ""
    if key in IN_BYTES and (unit or key is not Key.MEMORY_MIB):
        scale = _BYTES.get(unit.upper())
        if scale is None:
            return None
        size = float(number) * scale if "." in number else int(number) * scale
        return -(-int(size) // MIB) if key is Key.MEMORY_MIB else int(size)
    return int(number) if not unit and "." not in number else None
