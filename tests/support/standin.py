"""An agent in the test's own process, which does with each frame what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

from plexspaces_node.vm.driver import Endpoint
from plexspaces_node.wire import link


async def frames(
    endpoint: Endpoint, vm_id: str
) -> AsyncIterator[tuple[link.FromNode, asyncio.StreamWriter]]:
    """Dial the node and say hello; yield each frame that comes, and where an answer is written."""
    reader, writer = await asyncio.open_unix_connection(str(endpoint.path))
    buffer = link.FrameBuffer(1 << 22)
    with closing(writer):
        writer.write(link.encode(link.Hello(link.GENERATION, vm_id, "wasmtime 50.0.1")))
        while data := await reader.read(1 << 16):
            for body in buffer.feed(data):
                yield link.decode_from_node(body), writer
