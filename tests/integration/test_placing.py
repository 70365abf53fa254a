"""Applications that run with records made elsewhere: as a cluster places them on a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.nodes import builder
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.errors import NotFound, Unavailable
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.applications.placing import Placing
from plexspaces_node.node.node import Node
from plexspaces_node.node.registry.registry import ApplicationRecord


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    """A node in this process."""
    async with builder(data_dir).build() as node:
        yield node


@pytest.fixture
async def client(node: Node) -> AsyncIterator[NodeClient]:
    """Its client."""
    async with NodeClient(node.address) as client:
        yield client


@pytest.fixture
async def record(node: Node, client: NodeClient, probe_wasm: Path) -> ApplicationRecord:
    """The record of an application that was here, and whose artifact still is."""
    await client.deploy("one", probe_wasm)
    record = node.applications.roster.named("one").record
    await client.undeploy("one")
    return replace(record, generation=7)


@pytest.fixture
def placing(node: Node) -> Placing:
    """What runs records on it."""
    return node.applications.placing


async def count(client: NodeClient) -> int:
    """Count up, and return how often that was done."""
    return int.from_bytes((await client.invoke("one", type="c")).payload, "little")


async def test_run_when_it_is_new_then_it_has_this_record(
    node: Node, client: NodeClient, placing: Placing, record: ApplicationRecord
) -> None:
    """The id, the generation; its state is fetched when its row is there, and once."""
    prepared = []

    async def prepare() -> None:
        prepared.append(node.applications.roster.named("one").record.generation)

    for _ in range(2):
        info = await placing.run(record, prepare=prepare)
        assert (info.id, info.state) == (record.id, ApplicationState.RUNNING)
    assert prepared == [0]
    assert await count(client) == 1
    assert node.applications.roster.named("one").record.generation == 7


async def test_run_when_its_state_cannot_be_fetched_then_nothing_is_left(
    node: Node, data_dir: Path, placing: Placing, record: ApplicationRecord
) -> None:
    """It is no application of this node."""

    async def prepare() -> None:
        raise Unavailable("no bucket")

    with pytest.raises(Unavailable, match="no bucket"):
        await placing.run(record, prepare=prepare)
    with pytest.raises(NotFound):
        node.applications.roster.named("one")
    assert_nothing_left(data_dir)


async def test_run_when_another_has_the_name_then_it_goes_with_its_state(
    client: NodeClient, placing: Placing, record: ApplicationRecord
) -> None:
    """Only the id says which application it is."""
    await placing.run(record)
    assert [await count(client) for _ in range(3)] == [1, 2, 3]
    await placing.run(replace(record, id="app-other"))
    assert await count(client) == 1


async def test_run_when_the_next_version_is_placed_then_the_state_stays(
    node: Node, client: NodeClient, placing: Placing, record: ApplicationRecord
) -> None:
    """As in a deploy that replaces; a generation alone restarts nothing."""
    await placing.run(record)
    assert await count(client) == 1
    vm = node.applications.roster.machines()
    await placing.run(replace(record, generation=8))
    assert node.applications.roster.machines() == vm
    await placing.run(replace(record, generation=9, version="2", env={"A": "1"}))
    assert node.applications.roster.machines() != vm
    assert await count(client) == 2
    assert node.applications.roster.named("one").record.generation == 9


async def test_halt_when_it_runs_then_its_messages_wait_for_the_next_run(
    client: NodeClient, placing: Placing, record: ApplicationRecord
) -> None:
    """It is neither stopped nor gone for those who send; what was not saved is lost."""
    await placing.run(record)
    await placing.halt("one")
    asking = asyncio.ensure_future(count(client))
    await placing.run(record)
    assert await asking == 1
    assert (await client.inspect("one")).state is ApplicationState.RUNNING


async def test_halt_when_its_vm_ends_slowly_then_nothing_comes_to_it_meanwhile(
    node: Node, placing: Placing, record: ApplicationRecord
) -> None:
    """Another node may have started it by then."""
    await placing.run(record)
    intake = node.applications.roster.named("one").intake
    assert intake.agent is not None
    halting = asyncio.ensure_future(placing.halt("one"))
    while not node.applications.roster.named("one").expected:
        await asyncio.sleep(0)
    assert intake.agent is None
    await halting


async def test_remove_when_it_runs_then_nothing_is_left(
    data_dir: Path, placing: Placing, record: ApplicationRecord
) -> None:
    """Its state was handed over by then, to wherever the store keeps it."""
    await placing.run(record)
    await placing.remove("one")
    await placing.remove("one")
    with pytest.raises(NotFound):
        await placing.halt("one")
    assert_nothing_left(data_dir)
