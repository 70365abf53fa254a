"""An agent in the test's own process, which does with each frame what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

from support.feeding import feed

from plexspaces_node.link import frames as link
from plexspaces_node.vm.driver import Endpoint

MESSAGE_LIMIT = 1 << 22


def hello(vm_id: str, *, generation: int = link.GENERATION) -> bytes:
    """Return the first bytes of an agent."""
    return link.encode(link.Hello(generation=generation, vm_id=vm_id, engine="wasmtime 48.0.8"))


async def frames(
    endpoint: Endpoint, vm_id: str
) -> AsyncIterator[tuple[link.NodeFrame, link.Body, asyncio.StreamWriter]]:
    """Dial the node and say hello; yield each frame, its body, and where an answer is written."""
    reader, writer = await asyncio.open_unix_connection(str(endpoint.path))
    received = link.FrameReader.of_node(MESSAGE_LIMIT)
    with closing(writer):
        writer.write(hello(vm_id))
        while data := await reader.read(1 << 16):
            for frame, body in feed(received, data):
                yield frame, body, writer
