"""One act at a time on a name."""

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
    """A lock for each name, kept only while somebody uses it, or names would pile up."""

    def __init__(self) -> None:
        self._locks: dict[str, _NameLock] = {}

    def __repr__(self) -> str:
        return f"<NameLocks {', '.join(self._locks)}>"

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Wait until nobody else acts on the name, and keep others from it while inside."""
        lock = self._locks.setdefault(name, _NameLock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[name]
