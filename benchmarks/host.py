"""The node to be measured, in a process of its own; its first line on stdout is its addresses."""

from __future__ import annotations

import asyncio
import sys

from benchmarks import telemetry
from plexspaces_node import NodeBuilder


async def main(data_dir: str, applications: str = "100", measuring: str = "") -> None:
    """Serve at most so many applications until stdin ends; tells the addresses of gRPC and HTTP.

    With `count-only` it measures hardly anything of messages: see `telemetry`.
    """
    if measuring == "count-only":
        telemetry.count_only()
    builder = NodeBuilder("bench").with_address("127.0.0.1:0").with_isolation("process")
    builder = builder.with_setting("limits.applications", int(applications))
    builder = builder.with_setting("http.address", "127.0.0.1:0")
    async with builder.with_data_dir(data_dir).build() as node:
        print(node.address, node.http_address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
