"""The node as the end that connects: it dials again whenever the link breaks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plexspaces_node.link import frames as link
from plexspaces_node.node.machines import agent_link
from plexspaces_node.node.machines.agent_link import AgentLink

pytestmark = pytest.mark.virtual_time


class ListeningAgent:
    """An agent at a socket, as QEMU's port is: says hello to whoever connects."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(link.encode(link.Hello(generation=link.GENERATION, vm_id="vm-1")))
        self.connections.put_nowait(writer)
        await reader.read(-1)
        writer.close()
        self.ended.set()

    async def next(self) -> asyncio.StreamWriter:
        async with asyncio.timeout(10):
            return await self.connections.get()


@pytest.fixture
async def dialler() -> AsyncIterator[AgentLink]:
    dialler = AgentLink(
        "vm-1",
        node_id="n",
        message_limit=1024,
        received=lambda connection, frame, body: None,
        took_answers=lambda: None,
        lost=lambda connection: None,
        back=lambda: None,
        log=lambda lines: None,
    )
    yield dialler
    await dialler.close()


@pytest.fixture
async def path() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        yield Path(directory, "link.sock")


async def test_node_that_dials_gets_the_agents_hello(dialler: AgentLink, path: Path) -> None:
    """An agent that is already there says hello to the connection."""
    agent = ListeningAgent()
    async with await asyncio.start_unix_server(agent.serve, str(path)):
        dialler.dial(path)
        async with asyncio.timeout(10):
            assert (await dialler.hello()).vm_id == "vm-1"
        await dialler.close()
        await agent.ended.wait()


async def test_node_that_dials_before_anybody_listens_tries_again(
    dialler: AgentLink, path: Path
) -> None:
    """A socket that is not there yet is no end."""
    dialler.dial(path)
    await asyncio.sleep(0)
    agent = ListeningAgent()
    async with await asyncio.start_unix_server(agent.serve, str(path)):
        async with asyncio.timeout(10):
            assert (await dialler.hello()).vm_id == "vm-1"
        await dialler.close()
        await agent.ended.wait()


async def test_link_that_breaks_is_dialled_again(dialler: AgentLink, path: Path) -> None:
    """After a break, by nonsense or by an end, the next connection serves."""
    agent = ListeningAgent()
    async with await asyncio.start_unix_server(agent.serve, str(path)):
        dialler.dial(path)
        (await agent.next()).write(b"\xff" * 64)
        (await agent.next()).close()
        writer = await agent.next()
        agent.ended.clear()
        async with asyncio.timeout(10):
            while (connection := dialler.connection) is None or connection.gone.is_set():
                await asyncio.sleep(0.001)
        assert not writer.is_closing()
        await dialler.close()
        await agent.ended.wait()


async def test_agent_that_missed_the_connection_is_dialled_again(
    dialler: AgentLink, path: Path
) -> None:
    """Where no hello comes the node hangs up and connects anew; one that said hello is kept."""
    agent, missed = ListeningAgent(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if missed.is_set():
            await agent.serve(reader, writer)
            return
        assert await reader.read(-1) == b""
        writer.close()
        missed.set()

    async with await asyncio.start_unix_server(serve, str(path)), asyncio.timeout(100):
        dialler.dial(path)
        await dialler.hello()
        assert missed.is_set()
        # Well beyond the time for a greeting.
        await asyncio.sleep(10 * agent_link.GREETING_S)
        assert dialler.connection is not None
        assert not agent.ended.is_set()
        await dialler.close()
        await agent.ended.wait()


async def test_link_that_is_closed_dials_no_more(dialler: AgentLink, path: Path) -> None:
    """What was closed stays closed, a connection without a hello included."""
    connected, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read(-1)
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(silent, str(path)), asyncio.timeout(10):
        dialler.dial(path)
        await connected.wait()
        await dialler.close()
        await ended.wait()
    assert not dialler._ungreeted
