"""What a node tells its service manager, over a real socket of datagrams."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from plexspaces_node.systemd.notify import ServiceManager


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A manager that listens, and its address as `$NOTIFY_SOCKET` has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        if request.param == "file":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            name = f"plexspaces-{secrets.token_hex(8)}"
            address = f"@{name}"
            listener.bind(f"\0{name}")
        yield listener, address


def heard(listener: socket.socket) -> list[str]:
    """The messages that are there, as texts."""
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_ready_and_stopping_when_told_then_the_manager_hears_them(
    manager: tuple[socket.socket, str],
) -> None:
    """Each is one datagram, in the words of sd_notify(3)."""
    listener, address = manager
    service = ServiceManager.of({"NOTIFY_SOCKET": address})
    service.ready("serving\nat  127.0.0.1:9000")
    service.stopping("waiting", within_s=30.5)
    assert heard(listener) == [
        "READY=1\nSTATUS=serving at 127.0.0.1:9000",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=30500000\nSTATUS=waiting",
    ]


@pytest.mark.virtual_time
async def test_watchdog_when_the_loop_runs_then_it_hears_twice_a_period(
    manager: tuple[socket.socket, str],
) -> None:
    """And nothing any more once the service has ended."""
    listener, address = manager
    service = ServiceManager.of(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, pid=7
    )
    with service.kept_informed():
        await asyncio.sleep(19)
        assert heard(listener) == ["WATCHDOG=1"] * 4
    await asyncio.sleep(60)
    assert heard(listener) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-1"},
    ],
)
async def test_watchdog_when_there_is_none_for_us_then_it_hears_nothing(
    manager: tuple[socket.socket, str], watchdog: dict[str, str]
) -> None:
    """One that is meant for another process is not ours to feed."""
    listener, address = manager
    with ServiceManager.of({"NOTIFY_SOCKET": address, **watchdog}, pid=7).kept_informed():
        await asyncio.sleep(60)
    assert heard(listener) == []


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1", "/nonexistent/notify", "@nobody"])
def test_manager_when_nobody_listens_then_nothing_happens(address: str) -> None:
    """A node starts in a terminal as it does in a service."""
    service = ServiceManager.of({"NOTIFY_SOCKET": address})
    service.ready("serving")
    service.stopping("waiting", within_s=1)


def test_ready_when_the_manager_does_not_read_then_the_node_goes_on(tmp_path: Path) -> None:
    """A full socket costs a moment and no error."""
    address = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        listener.bind(address)
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", address)
        ServiceManager(address).ready("serving")
