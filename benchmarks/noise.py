"""A client whose application is at its quota, in a process of its own; ends with its stdin."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from benchmarks.node import PAYLOAD
from plexspaces_node import NodeClient
from plexspaces_node.errors import ResourceExhausted

CALLERS = 8


async def main(address: str, how: str) -> None:
    """Send with some callers at once, and print how many messages were answered and refused.

    When refused, a caller waits as long as it was told if `how` is `patient`, else not at all.
    """
    counts = [0, 0]
    async with NodeClient(address, http=False) as client:

        async def send() -> None:
            while True:
                try:
                    await client.invoke("noisy", PAYLOAD, type="e")
                    counts[0] += 1
                except ResourceExhausted as error:
                    counts[1] += 1
                    if how == "patient":
                        await asyncio.sleep(error.retry_after_s or 1)

        callers = [asyncio.ensure_future(send()) for _ in range(CALLERS)]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for caller in callers:
            caller.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*callers)
    print(*counts, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
