"""A real node for a test: real gRPC, real machines of the process driver, its own directory."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.actors import command, probe
from support.nodes import builder

from plexspaces_node import NodeClient
from plexspaces_node.node.builder import Node


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
