"""The quotas of tenants and applications, in memory: their values, their buckets, their errors.

Changed at run time without a restart: a lower quota refuses what comes, and never stops what runs.
Nothing here blocks or waits. Used only on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic_ns

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.outgoing.call import CallFailed, Code
from plexspaces_node.node.outgoing.outgoing import MOST_OF_TENANT
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.quota import (
    LEAST_LOG_BYTES,
    MOST,
    Key,
    Subject,
    application_of,
    exceeded,
    tenant_of,
)
from plexspaces_node.tasks import Leave

Clock = Callable[[], int]
Values = Mapping[Subject, Mapping[Key, int]]

_S = 1_000_000_000
_NOT_COUNTED = MOST

REFUSALS_PER_S = 50
"""How often a subject without a rate is refused before refusals are held back."""
LONGEST_HOLD_S = 1.0
MOST_HELD = 1000
"""How many refusals of a tenant are held back; each keeps a call of the node."""
HELD_BYTES = 16 * 1024
"""The longest message whose refusal is held back."""


class TokenBucket:
    """A rate with a burst of one second's worth: GCRA, one number and no timer.

    Times are nanoseconds of one clock.
    """

    __slots__ = ("_full_ns", "_room_ns", "_step_ns", "per_s")

    def __init__(self, per_s: int, now_ns: int) -> None:
        self.per_s = per_s
        self._step_ns = _S / per_s
        self._room_ns = max(_S, self._step_ns)
        # When all tokens will be back.
        self._full_ns: float = now_ns

    def wait_ns(self, now_ns: int) -> int:
        """Return after how many nanoseconds there is a token; 0 for now."""
        wait = max(self._full_ns, now_ns) + self._step_ns - self._room_ns - now_ns
        # Rounded up, so that whoever comes back then is served.
        return int(wait) + 1 if wait > 0 else 0

    def take(self, now_ns: int) -> None:
        """Take a token that there is."""
        self._full_ns = max(self._full_ns, now_ns) + self._step_ns

    def spend(self, count: int, now_ns: int) -> float:
        """Take `count` tokens, also more than there are; return for how many seconds to pause."""
        self._full_ns = max(self._full_ns, now_ns) + count * self._step_ns
        return max(0.0, self._full_ns - self._room_ns - now_ns) / _S

    def used(self, now_ns: int) -> int:
        """Return how many tokens are not back yet."""
        return int(max(0.0, self._full_ns - now_ns) / self._step_ns)


class Meter:
    """What is counted of one subject.

    Attributes:
        limits: its quotas; those it does not have are missing.
        messages: the bucket of its messages, or None.
        refusals: the bucket of its refusals: as many as messages.
        held: of a tenant, how many refusals are held back now.
        bandwidth: the bucket of the bytes of its outgoing HTTP, or None.
        calls: its outgoing HTTP requests now.
        most_flying: how many messages can be in flight at most: those that were when they were
            counted last, and those admitted since.
    """

    __slots__ = (
        "bandwidth",
        "calls",
        "held",
        "limits",
        "messages",
        "most_flying",
        "refusals",
        "subject",
    )

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.limits: dict[Key, int] = {}
        self.messages: TokenBucket | None = None
        self.refusals: TokenBucket | None = None
        self.bandwidth: TokenBucket | None = None
        self.held = self.calls = 0
        self.most_flying = _NOT_COUNTED

    def __repr__(self) -> str:
        return f"<Meter of {self.subject}: {self.limits}>"

    def set(self, limits: Mapping[Key, int], now_ns: int) -> None:
        """Use these quotas from now on; buckets whose rate stays keep what is in them."""
        self.limits = dict(limits)
        # While there is no quota, those admitted are not counted.
        self.most_flying = _NOT_COUNTED
        rate = limits.get(Key.MESSAGES_PER_S, 0)
        self.messages = _bucket(self.messages, rate, now_ns)
        self.refusals = _bucket(self.refusals, rate or REFUSALS_PER_S, now_ns)
        self.bandwidth = _bucket(self.bandwidth, limits.get(Key.OUTGOING_BYTES, 0), now_ns)

    def hold_s(self, now_ns: int) -> float:
        """Return for how many seconds to hold a refusal back, 0 for not at all; see `Refusal`."""
        if self.refusals is None:
            return 0.0
        wait_s = self.refusals.wait_ns(now_ns) / _S
        if wait_s >= LONGEST_HOLD_S:
            return LONGEST_HOLD_S
        self.refusals.take(now_ns)
        return wait_s


def _bucket(before: TokenBucket | None, per_s: int, now_ns: int) -> TokenBucket | None:
    if before is not None and before.per_s == per_s:
        return before
    return TokenBucket(per_s, now_ns) if per_s else None


class Refusal:
    """A message that is not admitted.

    Whoever comes again at once, however often they are refused, would keep the node from others. So
    a subject is refused as often as it may send: further refusals are held back until it is their
    turn, for up to `LONGEST_HOLD_S` and up to `MOST_HELD` of a tenant, and of short messages only,
    whose payloads may stay in memory.
    """

    __slots__ = ("_clock", "_key", "_meter", "_tenant", "_why")

    def __init__(self, meter: Meter, tenant: Meter, key: Key, why: str, clock: Clock) -> None:
        self._meter = meter
        self._tenant = tenant
        self._key = key
        self._why = why
        self._clock = clock

    def error(self) -> ResourceExhausted:
        """Return what the sender is told now."""
        meter, limit = self._meter, self._meter.limits.get(self._key, 0)
        if self._key is Key.IN_FLIGHT:
            return exceeded(meter.subject, self._key, limit, self._why)
        wait_ns = meter.messages.wait_ns(self._clock()) if meter.messages is not None else 0
        why = f"come back in {-(-wait_ns // 1_000_000)} ms"
        return exceeded(meter.subject, self._key, limit, why, retry_after_s=wait_ns / _S)

    def tell(self, told: Callable[[ResourceExhausted], None], *, size: int) -> Leave:
        """Call `told` with the error of a message of this size when it is its turn.

        Raises the error if that is now. The returned function gives it up.
        """
        tenant = self._tenant
        may_wait = size <= HELD_BYTES and tenant.held < MOST_HELD
        hold_s = self._meter.hold_s(self._clock()) if may_wait else 0.0
        if not hold_s:
            raise self.error()
        tenant.held += 1
        over = False

        def end() -> bool:
            nonlocal over
            before, over = over, True
            tenant.held -= not before
            return before

        def turn() -> None:
            if not end():
                told(self.error())

        timer = asyncio.get_running_loop().call_later(hold_s, turn)

        def leave() -> None:
            timer.cancel()
            end()

        return leave


class Gate:
    """The quotas that one application's messages and outgoing calls pass: its own, its tenant's.

    Attributes:
        is_open: whether there is none for messages, so that nothing has to be asked.
    """

    __slots__ = ("_clock", "_flying", "_in_flight", "_meters", "_rated", "is_open")

    def __init__(
        self, meters: tuple[Meter, ...], in_flight: Callable[[Subject], int], clock: Clock
    ) -> None:
        """`meters` are the application's and, as the last one, its tenant's."""
        self._meters = meters
        self._in_flight = in_flight
        self._clock = clock
        self._flying: list[tuple[Meter, int]] = []
        self._rated: list[tuple[Meter, TokenBucket]] = []
        self.is_open = True
        self.reset()

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open else 'bounded'} {self._meters!r}>"

    def reset(self) -> None:
        """Take note of changed quotas."""
        key, meters = Key.IN_FLIGHT, self._meters
        self._flying = [(one, one.limits[key]) for one in meters if key in one.limits]
        self._rated = [(one, one.messages) for one in meters if one.messages is not None]
        self.is_open = not (self._flying or self._rated)

    def admit(self) -> Refusal | None:
        """Count a message; return why it is refused, and then nothing is counted."""
        for meter, most in self._flying:
            # To count them, every application of a tenant is asked: not for each message.
            if meter.most_flying >= most:
                meter.most_flying = found = self._in_flight(meter.subject)
                if found >= most:
                    return self._refusal(meter, Key.IN_FLIGHT, f"{found} are in flight")
        now_ns, longest, late = self._clock(), 0, None
        for meter, bucket in self._rated:
            if (wait_ns := bucket.wait_ns(now_ns)) > longest:
                longest, late = wait_ns, meter
        if late is not None:
            return self._refusal(late, Key.MESSAGES_PER_S)
        for _, bucket in self._rated:
            bucket.take(now_ns)
        for meter, _ in self._flying:
            meter.most_flying += 1
        return None

    def _refusal(self, meter: Meter, key: Key, why: str = "") -> Refusal:
        return Refusal(meter, self._meters[-1], key, why, self._clock)

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
        if self._meters[-1].calls >= MOST_OF_TENANT:
            raise CallFailed(
                Code.CONNECTION_LIMIT_REACHED,
                f"{MOST_OF_TENANT} HTTP requests of {self._meters[-1].subject} are in progress",
                hint="try again",
            )
        for meter in self._meters:
            meter.calls += 1

    def end_call(self) -> None:
        """Stop counting an outgoing HTTP request."""
        for meter in self._meters:
            meter.calls -= 1

    def spend(self, count: int) -> float:
        """Count bytes of outgoing HTTP; return for how many seconds its bodies have to pause."""
        now_ns = self._clock()
        buckets = [one.bandwidth for one in self._meters if one.bandwidth is not None]
        return max((bucket.spend(count, now_ns) for bucket in buckets), default=0.0)


class Quotas:
    """The quotas of a node. Used only on the event loop."""

    def __init__(self, values: Values | None = None, *, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._meters: dict[Subject, Meter] = {}
        self._gates: dict[str, Gate] = {}
        self._watchers: list[Callable[[Subject], None]] = []
        self.in_flight: Callable[[Subject], int] = _none_known
        for subject, limits in (values or {}).items():
            self.meter(subject).set(limits, clock())

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
            found = self._gates[name] = Gate(
                meters, lambda subject: self.in_flight(subject), self._clock
            )
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

    @property
    def now_ns(self) -> int:
        """The time by the clock of the buckets."""
        return self._clock()

    def change(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Set some quotas of a subject from now on; 0 removes one."""
        meter = self.meter(subject)
        limits = {**meter.limits, **changes}
        meter.set({key: value for key, value in limits.items() if value}, self._clock())
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


def _none_known(_subject: Subject) -> int:
    return 0
