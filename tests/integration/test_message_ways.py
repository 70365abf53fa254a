"""A message by HTTP and by gRPC: the same reply, the same error, the same end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.actors import http_component, routed, talker
from support.nodes import builder
from support.patience import patient
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.client.http_messages import MOST_BYTES, MOST_CONNECTIONS
from plexspaces_node.errors import ActorError, PlexSpacesError, Unavailable
from plexspaces_node.http_notice import find
from plexspaces_node.model import MIB
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.node import Node

EVERY_BYTE = bytes(range(256))
HOURS_S = 3600.0


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.with_setting("limits.message_bytes", MIB).build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture
async def by_grpc(node: Node) -> AsyncIterator[NodeClient]:
    async with NodeClient(node.address, http=False) as client:
        yield client


@pytest.fixture(autouse=True)
async def deployed(client: NodeClient, probe_wasm: Path) -> None:
    await client.deploy("one", probe_wasm)


async def ended(
    client: NodeClient, name: str, payload: bytes, msg_type: str, timeout_s: float | None
) -> tuple[object, ...]:
    """Send a message; return everything that a caller sees of its end, but for the times."""
    try:
        result = await client.invoke(name, payload, type=msg_type, timeout_s=timeout_s)
    except ActorError as error:
        said = (error.message, error.code, error.retryable, error.hint, error.output)
        return (type(error), *said)
    except PlexSpacesError as error:
        return type(error), error.message, error.code, error.retryable, error.hint
    return result.payload, result.timings.total_ns > 0


async def in_flight(client: NodeClient, number: int) -> None:
    """Wait until the application has so many messages."""
    async with asyncio.timeout(patient(20)):
        while (await client.inspect("one")).counters.in_flight != number:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("name", "payload", "msg_type", "timeout_s"),
    [
        ("one", EVERY_BYTE, "e", None),
        ("one", b"", "e", None),
        ("one", b"x", "e/../ ?#%\r\né", None),
        ("one", b"x", "", None),
        ("one", b"x", "e" * 200, None),
        ("one", b"x", "e" * 70_000, None),
        ("one", bytes(MOST_BYTES), "e", None),
        ("one", bytes(MOST_BYTES + 1), "e", None),
        ("one", bytes(MIB + 1), "e", None),
        ("one", "nicht schön".encode(), "f", None),
        ("one", b"", "t", None),
        ("one", b"", "l", 0.05),
        ("one", routed("none", "e"), "a", None),
        ("talker", b"o\xff\x00rest", "", None),
        ("talker", b"ofailed", "", None),
        ("talker", b"q\x07", "", None),
        ("talker", b"t", "", None),
        ("web", b"body", "echo", None),
        ("web", b"", "", None),
        ("none", b"", "", None),
        ("stopped", b"", "", None),
        ("No Name", b"", "", None),
        ("one", b"", "e", -1.0),
    ],
)
async def test_both_ways_end_alike(
    client: NodeClient,
    by_grpc: NodeClient,
    probe_wasm: Path,
    name: str,
    payload: bytes,
    msg_type: str,
    timeout_s: float | None,
) -> None:
    """Reply or failure, code, hint and output, byte for byte."""
    if name == "talker":
        await client.deploy(name, talker())
    if name == "web":
        await client.deploy(name, http_component())
    if name == "stopped":
        await client.deploy(name, probe_wasm)
        await client.stop(name)
    first = await ended(client, name, payload, msg_type, timeout_s)
    second = await ended(by_grpc, name, payload, msg_type, timeout_s)
    assert first == second


async def test_result_says_how_the_message_went(client: NodeClient, by_grpc: NodeClient) -> None:
    """HTTP where it is faster, and gRPC where not."""
    assert (await client.invoke("one", EVERY_BYTE, type="e")).transport == "http"
    assert (await client.invoke("one", bytes(MOST_BYTES + 1), type="e")).transport == "grpc"
    assert (await by_grpc.invoke("one", type="e")).transport == "grpc"


async def test_more_messages_than_connections_are_all_answered(client: NodeClient) -> None:
    """Those that find none free go by gRPC."""
    numbers = [number.to_bytes(2, "little") for number in range(3 * MOST_CONNECTIONS)]
    results = await asyncio.gather(*(client.invoke("one", each, type="e") for each in numbers))
    assert [result.payload for result in results] == numbers
    assert {result.transport for result in results} == {"http", "grpc"}


async def test_caller_that_cancels_takes_its_message_out_of_the_mailbox(
    client: NodeClient, by_grpc: NodeClient
) -> None:
    """As by gRPC: what waits behind another is never begun."""
    await client.undeploy("one")
    await client.deploy("one", talker(), options=DeployOptions(concurrency=1))
    busy = asyncio.create_task(by_grpc.invoke("one", b"z\x02"))
    await in_flight(by_grpc, 1)
    waiting = [asyncio.create_task(client.invoke("one", b"emessage")) for _ in range(3)]
    await in_flight(by_grpc, 4)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await busy
    await in_flight(by_grpc, 0)
    lines = [line.message async for line in by_grpc.logs("one")]
    assert "message" not in lines


async def test_client_that_is_closed_ends_what_is_in_progress(
    client: NodeClient, node: Node
) -> None:
    """Nobody waits for a reply that cannot come."""
    async with NodeClient(node.address) as other:
        waiting = asyncio.create_task(other.invoke("one", type="l", timeout_s=HOURS_S))
        await in_flight(client, 1)
    with pytest.raises(Unavailable):
        await waiting


async def test_command_that_sends_a_message_loads_no_grpc(node: Node) -> None:
    """Loading it would take longer than the message."""
    program = (
        "import sys\n"
        "from plexspaces_node.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "sys.exit(status or 100 * ('grpc' in sys.modules or 'google.protobuf' in sys.modules))\n"
    )
    arguments = ["invoke", "one", "--type", "e", "--data", "hi", "--stats"]
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, *arguments, "--node-address", node.address],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"hi")
    *_, transport, trace = ran.stderr.decode().splitlines()
    assert transport.split() == ["transport:", "http"]
    assert trace.startswith("trace:       plexspaces trace one --id ")


async def test_node_that_goes_leaves_no_notice(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, probe_wasm: Path
) -> None:
    """The next one at its address, without HTTP, gets the messages by gRPC."""
    other_dir = data_dir.with_name("other")
    with_http = builder(other_dir).with_setting("http.address", "127.0.0.1:0")
    async with with_http.build() as node, NodeClient(node.address) as client:
        address = node.address
        await client.deploy("two", probe_wasm)
        assert (await client.invoke("two", type="e")).transport == "http"
        await client.stop("two")
    async with builder(other_dir).with_address(address).build(), NodeClient(address) as client:
        await client.start("two")
        assert (await client.invoke("two", type="e")).transport == "grpc"


async def test_no_client_is_led_to_a_port_that_a_node_has_left(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may listen there from then on: the notice is gone before."""
    notice = find(node.address)
    assert notice is not None
    assert notice.http_address == node.http_address
    drain, found = HttpServer.drain, []

    async def noted(server: HttpServer, grace_s: float) -> None:
        found.append(find(node.address))
        await drain(server, grace_s)

    monkeypatch.setattr(HttpServer, "drain", noted)
    await node.drain()
    assert found == [None]
