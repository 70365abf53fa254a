"""The quotas of tenants and applications, in memory: their values, their buckets, their errors.

Changed at run time without a restart: a lower quota refuses what comes, and never stops what runs.
Nothing here blocks or waits. Used only on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic_ns

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.outgoing.call import CallFailed, Code
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.quota import (
    LEAST_LOG_BYTES,
    Key,
    Subject,
    application_of,
    exceeded,
    tenant_of,
)

Clock = Callable[[], int]
Values = Mapping[Subject, Mapping[Key, int]]

_S = 1_000_000_000


class TokenBucket:
    """A rate with a burst of one second's worth: GCRA, one number and no timer."""

    __slots__ = ("_clock", "_full_ns", "_room_ns", "_step_ns", "per_s")

    def __init__(self, per_s: int, clock: Clock = monotonic_ns) -> None:
        self.per_s = per_s
        self._clock = clock
        self._step_ns = _S / per_s
        self._room_ns = max(_S, self._step_ns)
        # When all tokens will be back.
        self._full_ns: float = clock()

    def wait_ns(self) -> int:
        """Return after how many nanoseconds there is a token; 0 for now."""
        now = self._clock()
        wait = max(self._full_ns, now) + self._step_ns - self._room_ns - now
        # Rounded up, so that whoever comes back then is served.
        return int(wait) + 1 if wait > 0 else 0

    def take(self) -> None:
        """Take a token that there is."""
        self._full_ns = max(self._full_ns, self._clock()) + self._step_ns

    def spend(self, count: int) -> float:
        """Take `count` tokens, also more than there are; return for how many seconds to pause."""
        now = self._clock()
        self._full_ns = max(self._full_ns, now) + count * self._step_ns
        return max(0.0, self._full_ns - self._room_ns - now) / _S

    @property
    def used(self) -> int:
        """How many tokens are not back yet."""
        return int(max(0.0, self._full_ns - self._clock()) / self._step_ns)


class Meter:
    """What is counted of one subject.

    Attributes:
        limits: its quotas; those it does not have are missing.
        messages: the bucket of its messages, or None.
        bandwidth: the bucket of the bytes of its outgoing HTTP, or None.
        calls: its outgoing HTTP requests now.
    """

    __slots__ = ("bandwidth", "calls", "limits", "messages", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.limits: dict[Key, int] = {}
        self.messages: TokenBucket | None = None
        self.bandwidth: TokenBucket | None = None
        self.calls = 0

    def __repr__(self) -> str:
        return f"<Meter of {self.subject}: {self.limits}>"

    def set(self, limits: Mapping[Key, int], clock: Clock) -> None:
        """Use these quotas from now on; buckets whose rate stays keep what is in them."""
        self.limits = dict(limits)
        self.messages = _bucket(self.messages, limits.get(Key.MESSAGES_PER_S, 0), clock)
        self.bandwidth = _bucket(self.bandwidth, limits.get(Key.OUTGOING_BYTES, 0), clock)


def _bucket(before: TokenBucket | None, per_s: int, clock: Clock) -> TokenBucket | None:
    if before is not None and before.per_s == per_s:
        return before
    return TokenBucket(per_s, clock) if per_s else None


class Gate:
    """The quotas that one application's messages and outgoing calls pass: its own, its tenant's.

    Attributes:
        is_open: whether there is none for messages, so that nothing has to be asked.
    """

    __slots__ = ("_in_flight", "_meters", "is_open")

    def __init__(self, meters: tuple[Meter, ...], in_flight: Callable[[Subject], int]) -> None:
        self._meters = meters
        self._in_flight = in_flight
        self.is_open = True
        self.reset()

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open else 'bounded'} {self._meters!r}>"

    def reset(self) -> None:
        """Take note of changed quotas."""
        bounds = (Key.MESSAGES_PER_S, Key.IN_FLIGHT)
        self.is_open = not any(key in meter.limits for meter in self._meters for key in bounds)

    def admit(self) -> None:
        """Count a message; raises `ResourceExhausted`, and then nothing is counted."""
        if self.is_open:
            return
        for meter in self._meters:
            if (most := meter.limits.get(Key.IN_FLIGHT, 0)) and (
                found := self._in_flight(meter.subject)
            ) >= most:
                raise exceeded(meter.subject, Key.IN_FLIGHT, most, f"{found} are in flight")
        late: tuple[int, Meter] | None = None
        for meter in self._meters:
            if meter.messages is not None and (wait_ns := meter.messages.wait_ns()):
                late = max(late or (0, meter), (wait_ns, meter), key=lambda one: one[0])
        if late is not None:
            raise _too_fast(*late)
        for meter in self._meters:
            if meter.messages is not None:
                meter.messages.take()

    def begin_call(self) -> None:
        """Count an outgoing HTTP request until `end_call`; raises `CallFailed` for one too many."""
        for meter in self._meters:
            most = meter.limits.get(Key.OUTGOING_CALLS, 0)
            if most and meter.calls >= most:
                error = exceeded(
                    meter.subject, Key.OUTGOING_CALLS, most, f"{meter.calls} are in progress"
                )
                raise CallFailed(
                    Code.CONNECTION_LIMIT_REACHED, error.message, hint=error.hint or ""
                )
        for meter in self._meters:
            meter.calls += 1

    def end_call(self) -> None:
        """Stop counting an outgoing HTTP request."""
        for meter in self._meters:
            meter.calls -= 1

    def spend(self, count: int) -> float:
        """Count bytes of outgoing HTTP; return for how many seconds its bodies have to pause."""
        pauses = [one.bandwidth.spend(count) for one in self._meters if one.bandwidth is not None]
        return max(pauses, default=0.0)


class Quotas:
    """The quotas of a node. Used only on the event loop."""

    def __init__(self, values: Values | None = None, *, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._meters: dict[Subject, Meter] = {}
        self._gates: dict[str, Gate] = {}
        self._watchers: list[Callable[[Subject], None]] = []
        self.in_flight: Callable[[Subject], int] = _none_known
        for subject, limits in (values or {}).items():
            self.meter(subject).set(limits, clock)

    def __repr__(self) -> str:
        return f"<Quotas of {', '.join(str(one) for one in self._meters)}>"

    def meter(self, subject: Subject) -> Meter:
        """Return what is counted of a subject."""
        found = self._meters.get(subject)
        if found is None:
            found = self._meters[subject] = Meter(subject)
        return found

    def gate(self, name: str) -> Gate:
        """Return the quotas that an application's messages pass, by its full name."""
        found = self._gates.get(name)
        if found is None:
            meters = (self.meter(application_of(name)), self.meter(tenant_of(name)))
            found = self._gates[name] = Gate(meters, lambda subject: self.in_flight(subject))
        return found

    def find(self, subject: Subject) -> Meter | None:
        """Return what is counted of a subject that has quotas or applications."""
        return self._meters.get(subject)

    def limit(self, subject: Subject, key: Key) -> int:
        """Return a quota; 0 for none."""
        found = self._meters.get(subject)
        return 0 if found is None else found.limits.get(key, 0)

    def limits(self, subject: Subject) -> Mapping[Key, int]:
        """Return the quotas of a subject."""
        found = self._meters.get(subject)
        return {} if found is None else found.limits

    def bounded(self) -> set[Subject]:
        """Return the tenants and applications that have quotas."""
        return {subject for subject, meter in self._meters.items() if meter.limits}

    def change(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Set some quotas of a subject from now on; 0 removes one."""
        meter = self.meter(subject)
        limits = {**meter.limits, **changes}
        meter.set({key: value for key, value in limits.items() if value}, self._clock)
        for gate in self._gates.values():
            gate.reset()
        for told in self._watchers:
            told(subject)

    def watch(self, told: Callable[[Subject], None]) -> None:
        """Call `told` with each subject whose quotas change."""
        self._watchers.append(told)

    def forget(self, name: str) -> None:
        """Drop what is counted of an application that is gone; its quotas stay."""
        self._gates.pop(name, None)
        subject = application_of(name)
        if not self.limits(subject):
            self._meters.pop(subject, None)

    def store_bound(self, name: str) -> StoreBound | None:
        """Return the quotas of an application's key-value store, None without any."""
        application, tenant = self.limits(application_of(name)), self.limits(tenant_of(name))
        bytes_, keys = Key.KEYVALUE_BYTES, Key.KEYVALUE_KEYS
        if not any(key in limits for key in (bytes_, keys) for limits in (application, tenant)):
            return None
        return StoreBound(
            application_bytes=application.get(bytes_, 0),
            application_keys=application.get(keys, 0),
            tenant_bytes=tenant.get(bytes_, 0),
            tenant_keys=tenant.get(keys, 0),
        )

    def log_bytes(self, name: str, *, beside: int, most: int) -> int:
        """Return how long an application's log may be, when `beside` of its tenant have logs too.

        A tenant's quota is divided equally among its applications.
        """
        own = self.limit(application_of(name), Key.LOG_BYTES)
        shared = self.limit(tenant_of(name), Key.LOG_BYTES) // max(1, beside)
        bounds = [one for one in (own, shared) if one]
        return max(LEAST_LOG_BYTES, min([most, *bounds]))


def _too_fast(wait_ns: int, meter: Meter) -> ResourceExhausted:
    rate = meter.limits[Key.MESSAGES_PER_S]
    wait_ms = -(-wait_ns // 1_000_000)
    why = f"come back in {wait_ms} ms"
    return exceeded(meter.subject, Key.MESSAGES_PER_S, rate, why, retry_after_s=wait_ns / _S)


def _none_known(_subject: Subject) -> int:
    return 0


def subjects(names: Iterable[str]) -> set[Subject]:
    """Return the tenants and the applications of these full names."""
    known = tuple(names)
    return {one(name) for name in known for one in (tenant_of, application_of)}
