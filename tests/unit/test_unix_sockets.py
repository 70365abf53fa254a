"""The node's unix sockets: for its owner from the first moment on, and for nobody else."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread

import grpc
import pytest

from plexspaces_node.cli.options import address_of
from plexspaces_node.http_notice import Notice, is_answering
from plexspaces_node.node.api.listen import bind_unix
from plexspaces_node.node.unix_sockets import (
    for_the_owner,
    has_room,
    is_of_owner,
    listening,
    remove,
)

_CONNECT = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
"""


@pytest.fixture
def place(short_dir: Path) -> Path:
    """Where others can get to: it is the socket that keeps them out."""
    short_dir.chmod(0o755)
    return short_dir / "node.sock"


def test_socket_when_made_then_its_owner_alone_may_connect(place: Path) -> None:
    """Whatever the umask; what is left of a killed node is removed first."""
    before = os.umask(0)
    try:
        for _ in range(2):
            assert has_room(place)
            with listening(place, 8):
                assert stat.S_IMODE(place.stat().st_mode) == 0o600
                assert is_answering(place)
            assert not is_answering(place)
        assert os.umask(0) == 0, "it is as it was"
    finally:
        os.umask(before)
    remove(place)
    remove(place)
    assert not place.exists()


async def test_socket_of_grpc_when_made_then_its_owner_alone_may_connect(short_dir: Path) -> None:
    """Also with characters in its path that mean something to gRPC."""
    directory = short_dir / "a b%20?#"
    directory.mkdir()
    path, before = directory / "node.sock", os.umask(0)
    try:
        server = grpc.aio.server()
        bind_unix(server, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await server.start()
        assert is_answering(path)
        await server.stop(None)
    finally:
        os.umask(before)


def test_directory_when_made_meanwhile_by_another_thread_then_it_can_be_entered(
    place: Path,
) -> None:
    """The umask is that of all threads of the program that a node is part of."""
    with for_the_owner(place), socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
        other = Thread(target=(place.parent / "other").mkdir)
        other.start()
        other.join()
    assert stat.S_IMODE((place.parent / "other").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_socket_when_another_user_connects_then_the_kernel_refuses(place: Path) -> None:
    """Though they can enter the directory."""
    with listening(place, 8):
        ran = subprocess.run(
            [sys.executable, "-c", _CONNECT, str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert "PermissionError" in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_socket_when_its_mode_is_wrong_then_another_user_is_told_apart(place: Path) -> None:
    """By what the kernel says of the process at the other end."""
    with listening(place, 8) as server:
        place.chmod(0o777)
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(str(place))
            accepted, _ = server.accept()
            with accepted:
                assert is_of_owner(accepted)
        command = [sys.executable, "-c", _CONNECT, str(place)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL):
            accepted, _ = server.accept()
            with accepted:
                assert not is_of_owner(accepted)


def test_socket_when_its_path_is_too_long_then_there_is_none_and_the_log_says_so(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the file of somebody is not removed for it."""
    assert not has_room(short_dir / ("x" * 100) / "node.sock")
    assert "the kernel takes 107" in caplog.text
    (short_dir / "node.sock").write_text("mine")
    assert not has_room(short_dir / "node.sock")
    assert (short_dir / "node.sock").read_text() == "mine"
    assert not is_answering(short_dir / "node.sock")


def test_directory_when_the_configuration_names_it_alone_then_its_node_is_meant(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one that listens at the address that is everybody's default."""
    monkeypatch.setattr("plexspaces_node.cli.options.find", lambda _: Notice("", "/other.sock", ""))
    monkeypatch.delenv("PLEXSPACES_NODE_ADDRESS", raising=False)
    monkeypatch.delenv("PLEXSPACES_CONFIG", raising=False)
    with listening(place, 8):
        monkeypatch.setenv("PLEXSPACES_NODE_DATA_DIR", str(place.parent))
        assert address_of(None) == f"unix:{place}"
        monkeypatch.setenv("PLEXSPACES_NODE_ADDRESS", "127.0.0.1:9009")
        assert address_of(None) == "127.0.0.1:9009"
