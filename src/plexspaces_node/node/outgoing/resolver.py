"""Resolves host names with the system's resolver, on threads of its own.

A lookup cannot be cancelled, and a slow name server holds its thread for half a minute. So the
threads are not those that the node reads and writes files with, and no application has all of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from plexspaces_node.allowed_hosts import Address

MOST_LOOKUPS = 32
"""The maximum number of lookups at once."""

MOST_LOOKUPS_OF_ONE = 4
"""The same for one application."""

LookUp: TypeAlias = Callable[[str], Sequence[Address]]
"""Returns the addresses of a name; blocks; raises OSError, also for a name without addresses."""


def look_up(name: str) -> list[Address]:
    """Ask the system for the addresses of a name, in the order in which to try them. Blocks."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ipaddress.ip_address(text) for text in texts]


class Resolver:
    """The lookups of a node. Used on its event loop."""

    def __init__(self, look_up: LookUp = look_up, *, at_once: int = MOST_LOOKUPS) -> None:
        self._look_up = look_up
        self._slots = asyncio.Semaphore(at_once)

    async def resolve(self, name: str, share: asyncio.Semaphore) -> Sequence[Address]:
        """Return the addresses of a name; raises OSError.

        `share` has a slot for each of the lookups that the application may have at once. A lookup
        keeps its slots until it ends, also if nobody waits for it any more.
        """
        await share.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            share.release()
            raise
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[Address]] = loop.create_future()

        def done(outcome: Sequence[Address] | Exception) -> None:
            self._slots.release()
            share.release()
            if found.done():
                return
            if isinstance(outcome, Exception):
                found.set_exception(outcome)
            else:
                found.set_result(outcome)

        def work() -> None:
            outcome: Sequence[Address] | Exception
            try:
                outcome = self._look_up(name)
            except (OSError, ValueError) as error:
                outcome = error if isinstance(error, OSError) else OSError(str(error))
            # Unless the loop has ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done, outcome)

        try:
            # A daemon: a node that ends does not wait for a name server.
            threading.Thread(target=work, name=f"resolve {name}", daemon=True).start()
        except RuntimeError as error:
            done(OSError(str(error)))
        return await found
