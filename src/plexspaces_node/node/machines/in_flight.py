"""The payloads that a node holds: messages in flight and unread replies, of all applications.

Each application has limits of its own; this one prevents many of them from using up the host's
memory. After a burst the memory is returned, which the C library does not do by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.model import MIB

LEAST_MIB = 64

PART_OF_HOST = 64
"""The default is this fraction of the host's memory; a payload costs up to three times its
length."""

BURST_BYTES = 16 * MIB
"""After less than this there is little to return."""

CALM_S = (1.0, 5.0)
"""From the end of a burst to returning memory, and from there to doing so again: some is freed
late."""

_CALM_PART = 8


def default_bytes(host_memory_mib: int) -> int:
    """Return the default limit for a host with this much memory."""
    return max(LEAST_MIB, host_memory_mib // PART_OF_HOST) * MIB


class InFlight:
    """Counts payloads. Used only on the event loop; nothing here blocks it."""

    def __init__(
        self,
        limit_bytes: int = sys.maxsize,
        *,
        give_back: Callable[[], object] | None = None,
        calm_s: tuple[float, ...] = CALM_S,
    ) -> None:
        """Allow this much; `give_back` is called on a thread when a burst is over.

        It is called `calm_s` after that, and once more for each further number.
        """
        self._calm_s = calm_s
        self.bytes = 0
        self.limit_bytes = limit_bytes
        self._shares: dict[str, TenantShare] = {}
        self._peak_bytes = 0
        self._give_back = give_back or _nothing
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<InFlight {self.bytes} of {self.limit_bytes} bytes>"

    def check(self, size: int, *, held: int | None = None) -> None:
        """Raise `ResourceExhausted` if a payload does not fit; a single one always does.

        `held` is how much its application, or its tenant, has already: with this payload it may
        have no more than is left then, so that who wants everything leaves some for the next one.
        """
        kept = 0 if held is None else held + size
        if self.bytes and self.bytes + size + kept > self.limit_bytes:
            raise ResourceExhausted(
                f"as many messages and replies as may be are in flight on this node: {size} bytes "
                f"more would exceed its limit of {self.limit_bytes}",
                hint="send more slowly, or raise [limits] in_flight_bytes",
            )

    def share_of(self, tenant: str) -> TenantShare:
        """Return what counts the payloads of a tenant's applications."""
        return self._shares.setdefault(tenant, TenantShare(self))

    @property
    def is_shared(self) -> bool:
        """Whether there are applications of several tenants."""
        return len(self._shares) > 1

    def add(self, size: int) -> None:
        """Count a payload until `remove` is called with the same size."""
        self.bytes += size
        if self.bytes > self._peak_bytes:
            self._peak_bytes = self.bytes

    def remove(self, size: int) -> None:
        """Stop counting a payload."""
        self.bytes -= size
        if self._peak_bytes >= BURST_BYTES and self.bytes * _CALM_PART <= self._peak_bytes:
            self._peak_bytes = self.bytes
            if self._timer is not None:
                self._timer.cancel()
            self._after(*self._calm_s)

    def close(self) -> None:
        """Return no more memory. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _after(self, delay_s: float, *later_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._calm, *later_s)

    def _calm(self, *later_s: float) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, self._give_back)
        if later_s:
            self._after(*later_s)


class TenantShare:
    """The payloads of one tenant's applications, counted in a node's too.

    Attributes:
        bytes: how much they are.
    """

    __slots__ = ("_whole", "bytes")

    def __init__(self, whole: InFlight) -> None:
        self._whole = whole
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<TenantShare {self.bytes} bytes of {self._whole!r}>"

    def check(self, size: int, *, held: int) -> None:
        """Raise `ResourceExhausted` if a payload does not fit: see `InFlight.check`.

        `held` is how much its application has already; what counts is the tenant if there are more.
        """
        self._whole.check(size, held=self.bytes if self._whole.is_shared else held)

    def add(self, size: int) -> None:
        """Count a payload until `remove` is called with the same size."""
        self.bytes += size
        self._whole.add(size)

    def remove(self, size: int) -> None:
        """Stop counting a payload."""
        self.bytes -= size
        self._whole.remove(size)


def give_back_memory() -> None:
    """Return freed memory to the system. Blocks for up to 0.2 s; does nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _nothing() -> None:
    pass
