"""A real node for a test: real gRPC, real machines of the process driver, its own directory.

And an agent without a node: `peer`, with what it can load.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.actors import command, compiled, probe, talker
from support.nodes import builder
from support.peer import Peer
from support.raw_http import Caller, callers

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        yield Path(directory) / "data"


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).build() as node:
        yield node


@pytest.fixture
async def client(node: Node) -> AsyncIterator[NodeClient]:
    async with NodeClient(node.address) as client:
        yield client


@pytest.fixture
async def open_(node: Node) -> AsyncIterator[Any]:
    """Opens connections to the HTTP port, which a node has if its module says so."""
    async with callers(node.http_address) as connect:
        yield connect


@pytest.fixture
async def http(open_: Any) -> Caller:
    """One connection to the HTTP port."""
    return await open_()  # type: ignore[no-any-return]


@pytest.fixture
async def echo(client: NodeClient, probe_wasm: Path) -> None:
    """The probe, deployed as `echo`."""
    await client.deploy("echo", probe_wasm)


@pytest.fixture(scope="session")
def probe_wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wasm") / "probe.wasm"
    path.write_bytes(probe())
    return path


@pytest.fixture(scope="session")
def command_wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wasm") / "command.wasm"
    path.write_bytes(command())
    return path


@pytest.fixture(scope="session")
def probe_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(probe(), tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def talker_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(talker(), tmp_path_factory.mktemp("talker"))


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        yield peer
