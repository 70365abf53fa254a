"""Sends requests with wrong tokens, so many a second, until its stdin ends; then says how many."""

from __future__ import annotations

import asyncio
import sys

from plexspaces_node.token_text import new_secret

CONNECTIONS = 1000
BURST = 1
"""Requests that a connection sends at once; more are only answered one after the other."""


async def main(address: str, per_second: str) -> None:
    """Flood HOST:PORT; its first line on stdout says that it has begun."""
    host, _, port = address.rpartition(":")
    head = (
        f"POST /apps/echo/e HTTP/1.1\r\nhost: {address}\r\n"
        f"authorization: Bearer {new_secret()}\r\ncontent-length: 1\r\n\r\nx"
    ).encode()
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS)]
    answers = [0]
    senders = [
        asyncio.create_task(_send(*one, head * BURST, int(per_second), answers))
        for one in connections
    ]
    print("flooding", flush=True)
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    await asyncio.to_thread(sys.stdin.read)
    print(round(answers[0] / (loop.time() - begin_s)), flush=True)
    for sender in senders:
        sender.cancel()


async def _send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    burst: bytes,
    per_second: int,
    answers: list[int],
) -> None:
    """Send a burst, and the next one when its time has come and this one is answered."""
    loop = asyncio.get_running_loop()
    interval_s = BURST * CONNECTIONS / per_second
    at_s = loop.time()
    while True:
        writer.write(burst)
        left = BURST
        while left:
            left -= (await reader.read(1 << 16)).count(b"HTTP/1.1 401 ")
        answers[0] += BURST
        at_s += interval_s
        await asyncio.sleep(max(0.0, at_s - loop.time()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
