"""What unit tests share: a node without machines, the command itself, the end of a link."""

from __future__ import annotations

import ctypes.util
import shutil
import socket
import tempfile
from asyncio import AbstractEventLoop, new_event_loop
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.command import Command, make_command
from support.fake_node import WASM, FakeNode
from support.kernel_packages import LAYOUTS, lay_out
from support.link_case import Loop, Run, run_case


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], AbstractEventLoop]]:
    """Run what is marked `virtual_time` on a loop on which no wait takes real time."""
    if marker := item.get_closest_marker("virtual_time"):
        return {"virtual": partial(Loop, **marker.kwargs)}
    return {"real": new_event_loop}


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="px-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run(short_dir: Path) -> Run:
    """What runs a case of a link."""
    return partial(run_case, short_dir)


@pytest.fixture
def fake_node() -> Iterator[FakeNode]:
    """A fake node that serves."""
    with FakeNode() as node:
        yield node


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Command:
    """The command with no node to talk to."""
    return make_command(monkeypatch, capsysbinary.readouterr, tmp_path)


@pytest.fixture
def plexspaces(command: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, set to talk to the fake node."""
    monkeypatch.setenv("PLEXSPACES_NODE_ADDRESS", fake_node.address)
    return command


@pytest.fixture
def wasm(tmp_path: Path) -> Path:
    """A file that looks like WebAssembly."""
    path = tmp_path / "app.wasm"
    path.write_bytes(WASM)
    return path


@pytest.fixture
def free_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(params=list(LAYOUTS))
def packages(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unpacked packages of a kernel, as each distribution lays them out."""
    if request.param == "Ubuntu" and not ctypes.util.find_library("zstd"):
        pytest.skip("needs libzstd")
    root = tmp_path / "unpacked"
    lay_out(request.param, root)
    return root
