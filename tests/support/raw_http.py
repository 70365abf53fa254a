"""A client of HTTP that sends what it is told, byte for byte, and reads what comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Answer:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    trailing: bytes = b""
    all_headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """A client that sends what it is told, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: str) -> Self:
        """Connect to HOST:PORT."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def answer(self, *, method: str = "POST") -> Answer:
        """Read one response; an interim one is passed over."""
        async with asyncio.timeout(30):
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                status = int(first.split()[1])
                if status != 100:
                    break
            pairs = [(k.lower(), v) for k, v in (line.split(": ", 1) for line in lines)]
            headers = dict(pairs)
            body = b""
            if method != "HEAD" and status != 204:
                if "content-length" in headers:
                    body = await self.reader.readexactly(int(headers["content-length"]))
                else:
                    while size := int(await self.reader.readline(), 16):
                        body += await self.reader.readexactly(size)
                        await self.reader.readline()
                    await self.reader.readline()
        return Answer(status, headers, body, all_headers=pairs)

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read its response; a header is written with _ for -."""
        named = {"host": "localhost", "content-length": str(len(body)), **headers}
        lines = [f"{key.replace('_', '-')}: {value}" for key, value in named.items()]
        self.writer.write(
            "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body
        )
        return await self.answer(method=method)

    async def leave(self) -> None:
        """Close as clients do, and wait until the node has closed its side."""
        self.writer.write_eof()
        async with asyncio.timeout(30):
            await self.reader.read()

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; whether nothing more came before it."""
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


@asynccontextmanager
async def callers(address: str) -> AsyncIterator[Callable[[], Awaitable[Caller]]]:
    """Open connections to HOST:PORT in the body, which end with it."""
    opened: list[Caller] = []

    async def connect() -> Caller:
        opened.append(await Caller.connect(address))
        return opened[-1]

    try:
        yield connect
    finally:
        for caller in opened:
            caller.writer.close()
