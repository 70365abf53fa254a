"""An application that is replaced or killed while messages come by every way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.actors import http_component, probe, routed
from support.nodes import builder, reached
from support.patience import patient
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorError, PlexSpacesError, platform_error
from plexspaces_node.node.node import Node

REPLACE = DeployOptions(replace=True)
SENDERS = 3
"""Of each kind, each with one message at a time."""

Send = Callable[[], Awaitable[bytes]]


class Load:
    """Messages that come all the time, by gRPC, HTTP and another application.

    Attributes:
        counts: what the counter was after each message that was answered.
        errors: those that were not.
    """

    def __init__(self, node: Node, client: NodeClient) -> None:
        self.counts: list[int] = []
        self.errors: list[PlexSpacesError | ActorError] = []
        self._node = node
        self._client = client
        self._stopped = False
        self._more = asyncio.Condition()

    async def answers(self, number: int) -> None:
        """Wait until so many more messages are answered."""
        wanted = len(self.counts) + number
        async with asyncio.timeout(patient(60)), self._more:
            await self._more.wait_for(lambda: len(self.counts) >= wanted)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send all the time; returns when the last message is answered."""
        ways = [self._by_grpc, self._by_another] * SENDERS
        connections = [HTTPConnection(self._node.http_address) for _ in range(SENDERS)]
        async with asyncio.TaskGroup() as tasks:
            for way in ways:
                tasks.create_task(self._send_all(way))
            for each in connections:
                tasks.create_task(self._send_all(lambda each=each: self._by_http(each)))  # type: ignore[misc]
            try:
                yield
            finally:
                self._stopped = True
        for each in connections:
            each.close()

    async def _send_all(self, send: Send) -> None:
        while not self._stopped:
            try:
                count = int.from_bytes(await send(), "little")
            except (PlexSpacesError, ActorError) as error:
                self.errors.append(error)
                continue
            async with self._more:
                self.counts.append(count)
                self._more.notify_all()

    async def _by_grpc(self) -> bytes:
        return (await self._client.invoke("one", type="c")).payload

    async def _by_another(self) -> bytes:
        # The probe handles one message at a time: two of them together ask twice at a time.
        return (await self._client.invoke("front", routed("one", "c"), type="a")).payload

    async def _by_http(self, connection: HTTPConnection) -> bytes:
        def send() -> bytes:
            connection.request("POST", "/apps/one/c", b"")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return body
            assert (response.status, response.headers["retry-after"]) == (503, "1"), body
            problem = json.loads(body)
            raise platform_error(problem["code"], problem["detail"], hint=problem.get("hint"))

        return await asyncio.to_thread(send)


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture
async def load(node: Node, client: NodeClient, probe_wasm: Path) -> Load:
    """A load that has not begun, of an application that counts."""
    for name in ("one", "front"):
        await client.deploy(name, probe_wasm)
    return Load(node, client)


async def test_replaced_application_answers_every_message_once(
    load: Load, client: NodeClient
) -> None:
    """Messages wait for the next version; the old one finishes those that it has."""
    async with load.running():
        for number in range(4):
            await load.answers(50)
            version = probe() + b"\x00\x03\x02v%d" % number
            await client.deploy("one", version, options=REPLACE)
        await load.answers(50)
    assert load.errors == []
    assert sorted(load.counts) == list(range(1, len(load.counts) + 1))
    info = await client.inspect("one")
    assert (info.counters.failures, info.restarts) == (0, 0)


async def test_killed_machine_loses_only_the_messages_that_it_had(
    load: Load, client: NodeClient, data_dir: Path
) -> None:
    """Those that come while it is restarted wait, and the next one answers them."""
    vm = (await client.inspect("one")).vm
    assert vm is not None
    async with load.running():
        await load.answers(50)
        [pid] = [each for each in agents_of(data_dir) if vm.id.encode() in _arguments(each)]
        os.kill(pid, signal.SIGKILL)
        await reached(client, "one")
        await load.answers(50)
    # Each sender had at most one message there.
    assert len(load.errors) <= 2 * SENDERS + 1
    for error in load.errors:
        # The other application passes on what it got.
        assert error.code == "unavailable"
        assert error.message.endswith(f"the link to {vm.id} broke")
    assert (await client.inspect("one")).restarts == 1


async def test_replaced_component_answers_every_request(client: NodeClient, node: Node) -> None:
    """Requests wait for the next version as messages do."""
    await client.deploy("web", http_component())
    connection, stopped = HTTPConnection(node.http_address), asyncio.Event()
    statuses: list[int] = []

    def get() -> int:
        connection.request("GET", "/apps/web/")
        response = connection.getresponse()
        response.read()
        return response.status

    async def send_all() -> None:
        while not stopped.is_set():
            statuses.append(await asyncio.to_thread(get))

    sending = asyncio.create_task(send_all())
    for number in range(3):
        version = http_component() + b"\x00\x03\x02v%d" % number
        await client.deploy("web", version, options=REPLACE)
    stopped.set()
    await sending
    connection.close()
    assert set(statuses) == {200}


async def test_told_message_waits_for_the_application_too(load: Load, client: NodeClient) -> None:
    """An actor that tells does not notice that the other is being replaced."""
    told = 0
    replaced = asyncio.create_task(client.deploy("one", probe() + b"\0\3\2v2", options=REPLACE))
    while not replaced.done():
        await client.invoke("front", routed("one", "c"), type="s")
        told += 1
    await replaced
    count = (await client.invoke("one", type="c")).payload
    assert int.from_bytes(count, "little") == told + 1


async def test_application_that_is_undeployed_refuses_those_that_wait(
    load: Load, client: NodeClient, node: Node
) -> None:
    """They would wait for nothing."""
    supervisor = node.applications.roster.named("one")
    supervisor.replacing = True
    supervisor.direct()
    waiting = asyncio.create_task(client.invoke("one", type="c"))
    while not supervisor.intake.waiting:
        await asyncio.sleep(0)
    supervisor.replacing = False
    await client.undeploy("one")
    with pytest.raises(PlexSpacesError, match="'one' is Stopping"):
        await waiting


def _arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
