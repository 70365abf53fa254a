"""What the node does when machines fail, with a driver that fails on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from support.fake_driver import STEPS, FakeDriver
from support.nodes import builder
from support.patience import patient
from support.standin import frames, hello
from support.traces import assert_nothing_left, bundles_of

from plexspaces_node import NodeClient
from plexspaces_node.errors import (
    ActorFailed,
    AlreadyExists,
    PlexSpacesError,
    Unavailable,
    Unsupported,
    VmStartFailed,
)
from plexspaces_node.link import frames as link
from plexspaces_node.vm.driver import Endpoint, Health


async def _agent_of_another_age(endpoint: Endpoint, vm_id: str) -> None:
    _, writer = await asyncio.open_unix_connection(str(endpoint.path))
    with closing(writer):
        writer.write(hello(vm_id, generation=link.GENERATION + 1))
        await asyncio.get_running_loop().create_future()


async def _agent_that_talks_nonsense(endpoint: Endpoint, vm_id: str) -> None:
    _, writer = await asyncio.open_unix_connection(str(endpoint.path))
    with closing(writer):
        writer.write(b"\xff" * 100)
        await writer.drain()


async def _agent_that_speaks_before_its_hello(endpoint: Endpoint, vm_id: str) -> None:
    reader, writer = await asyncio.open_unix_connection(str(endpoint.path))
    with closing(writer):
        writer.write(link.encode(link.Log()))
        await reader.read()


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
async def client(driver: FakeDriver, data_dir: Path) -> AsyncIterator[NodeClient]:
    build = builder(data_dir).with_driver(driver).build()
    async with build as node, NodeClient(node.address) as client:
        yield client


async def _nothing(client: NodeClient, driver: FakeDriver, data_dir: Path) -> None:
    listing = await client.list()
    assert (listing.applications, listing.empty_vms) == ((), ())
    assert driver.live == []
    assert_nothing_left(data_dir)
    assert list((data_dir / "logs").iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
async def test_start_that_fails_names_its_step_and_leaves_nothing(
    client: NodeClient, driver: FakeDriver, data_dir: Path, probe_wasm: Path, step: str
) -> None:
    """Whatever step of a machine's start fails, the deploy says which, and all is undone."""
    driver.fail_at(step)
    with pytest.raises(VmStartFailed) as caught:
        await client.deploy("one", probe_wasm)
    assert caught.value.step == step
    await _nothing(client, driver, data_dir)


async def test_machine_that_ends_before_its_hello_fails_the_deploy_at_once(
    client: NodeClient, driver: FakeDriver, data_dir: Path, probe_wasm: Path
) -> None:
    """Nobody waits for a hello from a machine that is gone."""
    deploy = asyncio.create_task(client.deploy("one", probe_wasm))
    async with asyncio.timeout(patient(20)):
        while not driver.live:
            await asyncio.sleep(0.001)
        driver.crash(driver.live[0], reason="kernel panic")
        with pytest.raises(VmStartFailed, match="kernel panic") as caught:
            await deploy
    assert caught.value.step == "hello"
    await _nothing(client, driver, data_dir)


@pytest.mark.parametrize("step", STEPS)
async def test_client_that_goes_away_while_a_start_hangs_leaves_nothing(
    client: NodeClient, driver: FakeDriver, data_dir: Path, probe_wasm: Path, step: str
) -> None:
    """A hanging step is cancelled with its client."""
    driver.hang_at(step)
    deploy = asyncio.create_task(client.deploy("one", probe_wasm))
    await driver.hanging.wait()
    deploy.cancel()
    await asyncio.gather(deploy, return_exceptions=True)
    async with asyncio.timeout(patient(20)):
        while bundles_of(data_dir) or (await client.list()).applications:
            await asyncio.sleep(0.001)
    await _nothing(client, driver, data_dir)


async def test_shutdown_while_a_start_hangs_ends_it(
    driver: FakeDriver, data_dir: Path, probe_wasm: Path
) -> None:
    """A node does not wait for a deploy that does not end, and its client is told."""
    driver.hang_at("spawn")
    build = builder(data_dir).with_driver(driver).build()
    async with build as node, NodeClient(node.address) as client:
        deploy = asyncio.create_task(client.deploy("one", probe_wasm))
        await driver.hanging.wait()
        async with asyncio.timeout(patient(20)):
            await node.drain()
        with pytest.raises(PlexSpacesError, match="shutting down"):
            await deploy
    assert driver.live == []
    assert_nothing_left(data_dir)


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (
            _agent_of_another_age,
            f"generation {link.GENERATION + 1}, this node speaks {link.GENERATION}",
        ),
        (_agent_that_talks_nonsense, "ended before"),
        (_agent_that_speaks_before_its_hello, "ended before"),
    ],
)
async def test_agent_that_cannot_be_understood_fails_the_deploy(
    data_dir: Path, probe_wasm: Path, agent: object, why: str
) -> None:
    """A wrong generation or bytes that are no frames end the start with the reason."""
    driver = FakeDriver(agent)  # type: ignore[arg-type]
    build = builder(data_dir).with_driver(driver).build()
    async with build as node, NodeClient(node.address) as client:
        with pytest.raises(PlexSpacesError, match=why):
            await client.deploy("one", probe_wasm)
        await _nothing(client, driver, data_dir)


async def _agent_that_lies(endpoint: Endpoint, vm_id: str) -> None:
    async for frame, _, writer in frames(endpoint, vm_id):
        if isinstance(frame, link.Load):
            loaded = link.Loaded(id=frame.id, load_ns=2**64 - 7, init_ns=2**62)
            loaded.missing_walls.extend(["Landlock", "\x1b[2J", "x" * 9999, *["seccomp"] * 100])
            writer.write(link.encode(loaded))
        elif isinstance(frame, link.Invoke) and frame.type == "times":
            reply = link.Reply(id=frame.id, compute_ns=2**63 - 1, queue_ns=2**64 - 1)
            writer.write(link.encode(reply))
        elif isinstance(frame, link.Invoke) and frame.type == "size":
            # Neither of the lengths is ever more than a promise: nothing is made room for.
            writer.write(link.head_of(link.Reply(id=frame.id), 2**32 - 1))
        elif isinstance(frame, link.Invoke):
            writer.write(link.encode(link.Stopped(id=frame.id)))


async def test_agent_that_lies_harms_only_its_own_application(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Impossible times, sizes and answers are bounded or refused, and the listing goes on."""
    build = builder(data_dir).with_driver(FakeDriver(_agent_that_lies)).build()
    async with build as node, NodeClient(node.address) as client:
        deployed = await client.deploy("one", probe_wasm)
        assert deployed.vm is not None
        assert deployed.vm.missing_walls == ("Landlock", *["seccomp"] * 5)
        phases = deployed.timings
        assert 0 <= phases.load_ns <= phases.total_ns
        assert 0 <= phases.init_ns <= phases.total_ns
        timings = (await client.invoke("one", type="times")).timings
        # Parts that follow one another are together no longer than the whole.
        assert timings.compute_ns == timings.total_ns
        assert (timings.wait_ns, timings.queue_ns) == (0, 0)
        for lie in ("wrong frame", "size"):
            with pytest.raises(Unavailable):
                await client.invoke("one", type=lie)
            assert len((await client.list()).applications) == 1


async def _agent_that_will_not_end(endpoint: Endpoint, vm_id: str) -> None:
    refusal = link.failure_of(ActorFailed("never", code="no"))
    async for frame, _, writer in frames(endpoint, vm_id):
        if isinstance(frame, link.Load):
            writer.write(link.encode(link.Loaded(id=frame.id, load_ns=1, init_ns=1)))
        elif isinstance(frame, link.Stop | link.Measure):
            writer.write(link.encode(link.Failed(id=frame.id, failure=refusal)))


async def test_agent_that_will_not_end_is_ended(data_dir: Path, probe_wasm: Path) -> None:
    """Whatever it answers to a goodbye, its machine goes, with and without an application."""
    driver = FakeDriver(_agent_that_will_not_end)
    build = builder(data_dir).with_driver(driver).build()
    async with build as node, NodeClient(node.address) as client:
        await client.start_vm("vm-evil")
        assert "never" in (await client.inspect_vm("vm-evil")).memory_unknown
        await client.stop_vm("vm-evil")
        assert driver.live == []
        await client.deploy("one", probe_wasm)
        await client.undeploy("one")
        await _nothing(client, driver, data_dir)


async def test_empty_machine_that_cannot_start_leaves_its_id_free(
    client: NodeClient, driver: FakeDriver, data_dir: Path
) -> None:
    """A failed start of an empty machine is no obstacle to the next."""
    for _ in range(2):
        driver.fail_at("spawn")
        with pytest.raises(VmStartFailed):
            await client.start_vm("vm-mine")
    await _nothing(client, driver, data_dir)


async def test_driver_that_does_not_work_refuses_the_node(data_dir: Path) -> None:
    """A node with no way to make machines does not start, and says what helps."""
    driver = FakeDriver()
    driver.health = Health(False, "no /dev/kvm", "sudo usermod -aG kvm $USER")
    with pytest.raises(Unsupported, match="no /dev/kvm") as caught:
        async with builder(data_dir).with_driver(driver).build():
            pytest.fail("a node without machines")
    assert caught.value.hint == "sudo usermod -aG kvm $USER"


async def test_name_of_a_deploy_under_way_is_taken_until_it_failed(
    client: NodeClient, driver: FakeDriver, probe_wasm: Path
) -> None:
    """Two deploys of one name do not run at once; when the first fails the second may win."""
    driver.fail_at("spawn", times=2)
    outcomes = await asyncio.gather(
        client.deploy("one", probe_wasm), client.deploy("one", probe_wasm), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [VmStartFailed, VmStartFailed]
    assert not any(isinstance(outcome, AlreadyExists) for outcome in outcomes)
