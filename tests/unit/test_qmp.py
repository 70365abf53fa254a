"""The QMP client against a scripted QEMU on a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.vm.qemu.qmp import connect_qmp

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}
DONE: dict[str, Any] = {"return": {}}
OPENED = {"event": "VSERPORT_CHANGE", "data": {"open": True, "id": "link"}, "timestamp": {}}
RESUMED = {"event": "RESUME", "timestamp": {}}


class ScriptedQemu:
    """Greets, then answers each command with the next lines of its script, then hangs up."""

    def __init__(self, *answers: list[dict[str, Any] | bytes]) -> None:
        self.commands: list[dict[str, Any]] = []
        self._serving: list[asyncio.Task[Any]] = []
        self.greeting: dict[str, Any] | bytes = GREETING
        self._answers: list[list[dict[str, Any] | bytes]] = [[DONE], *answers]

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, str(path))
        async with server:
            yield
            await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        self._say(writer, self.greeting)
        for answer in self._answers:
            line = await reader.readline()
            if not line:
                break
            self.commands.append(json.loads(line))
            for message in answer:
                self._say(writer, message)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    @staticmethod
    def _say(writer: asyncio.StreamWriter, message: dict[str, Any] | bytes) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n"
        writer.write(data)


@pytest.fixture
def path() -> Iterator[Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        yield Path(directory, "qmp.sock")


async def test_command_when_executed_then_its_answer_is_returned(path: Path) -> None:
    """Capabilities are negotiated first; then a command's arguments arrive and its answer."""
    qemu = ScriptedQemu([{"return": {"status": "running"}}])
    async with qemu.at(path), connect_qmp(path) as client:
        assert await client.execute("query", {"of": 1}) == {"status": "running"}
    assert qemu.commands == [
        {"execute": "qmp_capabilities", "arguments": {}},
        {"execute": "query", "arguments": {"of": 1}},
    ]


async def test_command_when_refused_then_qemus_words_are_in_the_error(path: Path) -> None:
    """What QEMU says is wrong is what the caller reads."""
    qemu = ScriptedQemu([{"error": {"class": "GenericError", "desc": "no such node"}}])
    async with qemu.at(path), connect_qmp(path) as client:
        with pytest.raises(Unavailable, match="QEMU refuses blockdev-add: no such node"):
            await client.execute("blockdev-add")


async def test_events_amid_answers_and_after_are_all_seen_in_order(path: Path) -> None:
    """An event is lost neither before an answer nor in the same packet as one."""
    qemu = ScriptedQemu([RESUMED, DONE, OPENED])
    async with qemu.at(path), connect_qmp(path) as client:
        await client.execute("cont")
        assert await client.event() == ("RESUME", {})
        assert await client.event() == ("VSERPORT_CHANGE", {"open": True, "id": "link"})


async def test_message_when_it_comes_in_pieces_is_put_together(path: Path) -> None:
    """A line may be cut anywhere on its way."""
    whole = json.dumps({"return": "x" * 100_000}).encode()
    qemu = ScriptedQemu([whole[:10], whole[10:70_000], whole[70_000:] + b"\n"])
    async with qemu.at(path), connect_qmp(path) as client:
        assert await client.execute("long") == "x" * 100_000


async def test_qemu_when_it_goes_away_then_unavailable(path: Path) -> None:
    """The end of the process is seen by a command that waits and by one that waits for events."""
    async with ScriptedQemu().at(path), connect_qmp(path) as client:
        with pytest.raises(Unavailable, match="closed"):
            await client.event()
        with pytest.raises(Unavailable, match="closed"):
            await client.execute("cont")


async def test_socket_when_nobody_listens_then_unavailable(path: Path) -> None:
    """A missing and a stale socket are told alike."""
    with pytest.raises(Unavailable, match="is not listening"):
        async with connect_qmp(path):
            pytest.fail("connected to nothing")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(Unavailable, match="is not listening"):
        async with connect_qmp(path):
            pytest.fail("connected to nothing")


async def test_greeting_when_it_does_not_come_then_the_deadline_tells(path: Path) -> None:
    """A QEMU that serves another client, or hangs, costs a bounded time."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(1)
        with pytest.raises(DeadlineExceeded, match="sent no greeting"):
            async with connect_qmp(path, 0.01):
                pytest.fail("greeted by nobody")


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-x\r\n", b"[1]\n", b"\xff\xfe\n"])
async def test_greeting_when_it_is_no_qmp_then_unavailable(path: Path, nonsense: bytes) -> None:
    """Something else at the socket is named as such."""
    qemu = ScriptedQemu()
    qemu.greeting = nonsense
    async with qemu.at(path):
        with pytest.raises(Unavailable, match="does not speak QMP"):
            async with connect_qmp(path):
                pytest.fail("greeted by something else")


async def test_descriptor_when_handed_over_arrives_with_its_command(path: Path) -> None:
    """The other end reads the same open file, though it could not open it itself."""

    def serve(listener: socket.socket) -> bytes:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(GREETING).encode() + b"\n")
            connection.recv(1000)
            connection.sendall(b'{"return": {}}\n')
            command, descriptors, _, _ = socket.recv_fds(connection, 1000, 1)
            assert json.loads(command)["execute"] == "add-fd"
            connection.sendall(b'{"return": {"fdset-id": 2}}\n')
            with open(descriptors[0], "rb") as file:
                return file.read()

    descriptor = os.memfd_create("drive")
    os.pwrite(descriptor, b"content", 0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with connect_qmp(path) as client:
            answer = await client.execute("add-fd", {"fdset-id": 2}, descriptor=descriptor)
        assert answer == {"fdset-id": 2}
        assert await serving == b"content"
    os.close(descriptor)
