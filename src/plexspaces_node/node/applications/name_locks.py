"""One operation at a time for a name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _NameLock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class NameLocks:
    """A lock for each name, kept only while it is used, because names would accumulate."""

    def __init__(self) -> None:
        self._locks: dict[str, _NameLock] = {}

    def __repr__(self) -> str:
        return f"<NameLocks {', '.join(self._locks)}>"

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Wait until no other operation uses the name, and keep others waiting in the body."""
        lock = self._locks.setdefault(name, _NameLock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[name]
