"""A client of QMP, QEMU's control protocol: JSON lines on a unix socket.

This module implements the protocol: greeting, commands, answers, events, and descriptors that are
passed with a command. It knows no command's meaning. QEMU serves one client at a time, so a client
connects for a task and disconnects.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plexspaces_node.errors import DeadlineExceeded, Unavailable

ANSWER_TIMEOUT_S = 20.0
"""The timeout of one answer or greeting, including QEMU's start: milliseconds on an idle host."""

_READ_BYTES = 64 * 1024
_LINE_LIMIT_BYTES = 4 * 1024 * 1024
_NONE: Mapping[str, Any] = MappingProxyType({})


class QmpClient:
    """A connection to one QEMU, ready for commands. Created only by `connect_qmp`."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._events: deque[dict[str, Any]] = deque()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] = _NONE,
        *,
        descriptor: int | None = None,
    ) -> Any:
        """Run a command and return its result; `descriptor` is passed with it.

        Raises `Unavailable` if QEMU refuses the command, with its words, or has gone, and
        `DeadlineExceeded` if it does not answer.
        """
        line = json.dumps({"execute": command, "arguments": dict(arguments)}).encode() + b"\n"
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(line, descriptor)
                while True:
                    message = await self._message()
                    if "event" in message:
                        self._events.append(message)
                    elif "return" in message:
                        return message["return"]
                    elif "error" in message:
                        raise Unavailable(f"QEMU refuses {command}: {_words(message['error'])}")
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"QEMU did not answer {command} within {self._timeout_s:g} s"
            ) from error

    async def event(self) -> tuple[str, dict[str, Any]]:
        """Wait for the next event, including those that came between answers; its name and data.

        Waits without a time limit. Raises `Unavailable` if QEMU goes away.
        """
        message = self._events.popleft() if self._events else await self._message()
        while "event" not in message:
            message = await self._message()
        return str(message["event"]), message.get("data") or {}

    async def _send(self, line: bytes, descriptor: int | None) -> None:
        try:
            if descriptor is not None:
                # The descriptor is sent with the first byte. There is room, because every earlier
                # command has been answered.
                sent = socket.send_fds(self._connection, [line], [descriptor])
                line = line[sent:]
            if line:
                await asyncio.get_running_loop().sock_sendall(self._connection, line)
        except OSError as error:
            raise _gone() from error

    async def _message(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_LIMIT_BYTES:
                raise Unavailable("QEMU's control socket sends a line without an end")
            loop = asyncio.get_running_loop()
            try:
                data = await loop.sock_recv(self._connection, _READ_BYTES)
            except OSError as error:
                raise _gone() from error
            if not data:
                raise _gone()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except ValueError as error:
            raise Unavailable(f"QEMU's control socket does not speak QMP: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise Unavailable(f"QEMU's control socket does not speak QMP: {line[:80]!r}")
        return message


@asynccontextmanager
async def connect_qmp(path: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> AsyncIterator[QmpClient]:
    """Connect to the QEMU that listens at `path`; ready for commands and events.

    Waits while another client is served. The greeting and each answer have `timeout_s`. Raises
    `Unavailable` if nobody listens and `DeadlineExceeded` if nobody answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        client = QmpClient(connection, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(connection, str(path))
                while "QMP" not in await client._message():
                    pass
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"QEMU sent no greeting at {path} within {timeout_s:g} s"
            ) from error
        except OSError as error:
            raise Unavailable(f"QEMU is not listening at {path}: {error.strerror}") from error
        await client.execute("qmp_capabilities")
        yield client


def _gone() -> Unavailable:
    return Unavailable("QEMU closed its control socket")


def _words(error: Any) -> str:
    return str(error.get("desc", error)) if isinstance(error, dict) else str(error)
