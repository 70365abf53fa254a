"""The node as the end that listens: who may connect, how often, and what is said first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.feeding import feed
from support.link_case import Host
from support.sending import reply_of
from support.standin import hello

from plexspaces_node.errors import WrongState
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines import agent_link
from plexspaces_node.node.machines import listener as acceptor
from plexspaces_node.node.machines.agent_client import AgentClient

pytestmark = pytest.mark.virtual_time

GENERATION_2 = b"\x95\xa5Hello\x02\xa4vm-1\xafwasmtime 50.0.1\xa0"


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def client(host: Host) -> AsyncIterator[AgentClient]:
    client = AgentClient("vm-1", host, node_id="n", message_limit=1024, in_flight_limit=8)
    yield client
    await client.close()


@pytest.fixture
async def path(short_dir: Path, client: AgentClient) -> Path:
    """Where the client listens."""
    path = short_dir / "link.sock"
    client.link.listen(path)
    return path


async def welcomed(reader: asyncio.StreamReader) -> link.Welcome:
    """Receive the answer to a hello."""
    frames = link.FrameReader.of_node(0)
    while not (received := feed(frames, await reader.read(1 << 16))):
        pass
    [(welcome, _)] = received
    assert isinstance(welcome, link.Welcome)
    return welcome


async def test_agent_is_welcomed_with_what_it_has_to_know(client: AgentClient, path: Path) -> None:
    """The node's clock and randomness are for a guest that may be a copy of another."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(hello("vm-1"))
    welcome = await welcomed(reader)
    assert (welcome.generation, welcome.node_id, welcome.refused) == (link.GENERATION, "n", "")
    assert (welcome.message_limit, len(welcome.seed)) == (1024, agent_link.SEED_BYTES)
    assert welcome.time_unix_ns > 10**18
    assert (await client.link.hello()).vm_id == "vm-1"
    writer.close()


async def test_agent_may_speak_on_before_it_is_welcomed(
    client: AgentClient, host: Host, path: Path
) -> None:
    """Lines of the log that gathered while it was not connected come with its hello."""
    _, writer = await asyncio.open_unix_connection(path)
    line = link.Log.Line(stream=link.Log.STREAM_AGENT, level=link.Log.LEVEL_WARN, message="x" * 99)
    writer.write(hello("vm-1") + link.encode(link.Log(lines=[line] * 100)))
    async with asyncio.timeout(10):
        while len(host.lines) < 100:
            await asyncio.sleep(0)
    assert {line.stream for line in host.lines} == {"agent"}
    writer.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (hello("vm-1", generation=4), "generation 4, this node speaks 3"),
        (len(GENERATION_2).to_bytes(4, "little") + GENERATION_2, "generation 2 or before, this"),
    ],
    ids=["newer", "older"],
)
async def test_agent_of_another_generation_is_refused_in_words(
    client: AgentClient, host: Host, path: Path, said: bytes, why: str
) -> None:
    """Whoever started the machine learns which image is to be made anew, the log too."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(said)
    with pytest.raises(WrongState, match=why) as caught:
        await client.link.hello()
    assert "plexspaces image build" in str(caught.value.hint)
    assert [why in line.message for line in host.lines] == [True]
    if b"Hello" not in said:
        assert why in (await welcomed(reader)).refused
    assert await reader.read() == b""
    writer.close()


async def test_agent_of_another_machine_is_refused(client: AgentClient, path: Path) -> None:
    """A link belongs to one machine."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(hello("vm-2"))
    with pytest.raises(WrongState, match="this link is for vm-1, not vm-2"):
        await client.link.hello()
    assert await reader.read() != b""
    writer.close()


async def test_agent_that_connects_over_and_over_is_taken_a_few_times_a_second(
    client: AgentClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait in the kernel, whose queue is short, and cost the node nothing."""
    taken = 0
    opened = client.link.opened

    def count(connection: object) -> None:
        nonlocal taken
        taken += 1
        opened(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(client.link, "opened", count)
    loop = asyncio.get_running_loop()
    begin, sockets = loop.time(), list[socket.socket]()
    while loop.time() - begin < 10.0:
        sockets.append(one := socket.socket(socket.AF_UNIX))
        one.setblocking(False)
        try:
            one.connect(str(path))
        except BlockingIOError:
            # The queue is full.
            sockets.pop().close()
            await asyncio.sleep(0.001)
    assert 1 <= taken <= (loop.time() - begin) / acceptor.PAUSE_S + 1
    assert len(sockets) <= taken + 8
    for one in sockets:
        one.close()


async def test_connection_without_a_hello_is_closed(client: AgentClient, path: Path) -> None:
    """It holds nothing for longer than a greeting takes."""
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_agent_that_dials_again_takes_the_place_of_before(
    client: AgentClient, path: Path
) -> None:
    """An agent dials again only after it gave up the connection before."""
    first, writer = await asyncio.open_unix_connection(path)
    writer.write(hello("vm-1"))
    await welcomed(first)
    second, again = await asyncio.open_unix_connection(path)
    again.write(hello("vm-1"))
    await welcomed(second)
    assert await first.read() == b""
    waiting = asyncio.create_task(reply_of(client))
    assert await second.read(1) != b""
    waiting.cancel()
    for one in (writer, again):
        one.close()


async def test_socket_of_a_machine_is_its_owners_alone_and_goes_with_it(
    client: AgentClient, path: Path
) -> None:
    """A stale one is replaced; one that is closed is removed."""
    assert path.stat().st_mode & 0o777 == 0o600
    other = AgentClient("vm-1", Host(), node_id="n", message_limit=1024, in_flight_limit=8)
    other.link.listen(path)
    await other.close()
    assert not path.exists()
