"""Nodes for tests, in this process or in one of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.patience import patient

from plexspaces_node import NodeBuilder, NodeClient
from plexspaces_node.certificates import Pair
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationState


def builder(data_dir: Path) -> NodeBuilder:
    """A node builder with what every test wants."""
    return (
        NodeBuilder("node-test")
        .with_address("127.0.0.1:0")
        .with_isolation("process")
        .with_data_dir(data_dir)
        .with_level_figures(Path(f"{data_dir}.levels"))
        .with_setting("http.address", "")
        .with_setting("secrets.key_file", f"{data_dir}.key")
        .with_setting("limits.snapshot_interval_s", 0.05)
        .with_setting("node.grace_s", 2.0)
        .with_setting("limits.deploy_timeout_s", patient(120.0))
    )


def with_tls(building: NodeBuilder, directory: Path, pair: Pair) -> NodeBuilder:
    """The builder, of a node that also serves HTTP, and has a certificate in this directory."""
    certificate, key = directory / "node.pem", directory / "node-key.pem"
    certificate.write_bytes(pair.certificate)
    key.touch(0o600)
    key.write_bytes(pair.key)
    return (
        building.with_setting("http.address", "127.0.0.1:0")
        .with_setting("tls.certificate", str(certificate))
        .with_setting("tls.key", str(key))
    )


async def reached(
    client: NodeClient, name: str, state: ApplicationState = ApplicationState.RUNNING
) -> ApplicationInfo:
    """Wait until an application is in a state, and return it."""
    async with asyncio.timeout(patient(30)):
        while (found := await client.inspect(name)).state is not state:
            await asyncio.sleep(0.01)
    return found


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from support.nodes import builder
async def main():
    async with builder(Path(sys.argv[1])).with_isolation(sys.argv[2]).build() as node:
        print(node.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextmanager
def node_process(
    data_dir: Path, *, isolation: str = "process"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a node in a process of its own, for tests that kill it; yields it and its address."""
    tests = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(data_dir), isolation],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tests,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.kill()
        process.wait(20)
        process.stdout.close()
