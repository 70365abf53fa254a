"""What tests can have the fake driver do."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from support.fake_driver import STEPS, FakeDriver
from support.patience import patient

from plexspaces_node.errors import NotFound, VmStartFailed
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Endpoint, Health, VmExit

CONFIG = VmConfig(memory_mib=64)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle to start machines from."""
    return Bundle.create(tmp_path, "vm-1", CONFIG)


@pytest.mark.parametrize("step", STEPS)
async def test_start_when_told_to_fail_at_a_step_fails_there_and_then_works(
    bundle: Bundle, step: str
) -> None:
    """As many starts fail as were asked for, each leaving no machine."""
    driver = FakeDriver()
    driver.fail_at(step, times=2)
    for _ in range(2):
        with pytest.raises(VmStartFailed) as failed:
            await driver.start(CONFIG, bundle)
        assert failed.value.step == step
        assert driver.live == []
    await driver.start(CONFIG, bundle)
    assert driver.live == ["vm-1"]


@pytest.mark.parametrize("step", STEPS)
async def test_start_when_told_to_hang_hangs_until_cancelled(bundle: Bundle, step: str) -> None:
    """A test learns that the start hangs; cancelling it leaves no machine."""
    driver = FakeDriver()
    driver.hang_at(step)
    starting = asyncio.create_task(driver.start(CONFIG, bundle))
    async with asyncio.timeout(patient(5)):
        await driver.hanging.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert driver.live == []


async def test_step_that_does_not_exist_is_refused() -> None:
    """A misspelt step cannot make a test pass by doing nothing."""
    with pytest.raises(ValueError, match="boot"):
        FakeDriver().fail_at("boot")
    with pytest.raises(ValueError, match="boot"):
        FakeDriver().hang_at("boot")


async def test_crash_ends_the_machine_as_told(bundle: Bundle) -> None:
    """The waiter gets exactly the scripted end; a machine crashes once."""
    driver = FakeDriver()
    vm = await driver.start(CONFIG, bundle)
    driver.crash("vm-1", status=7, reason="out of luck")
    assert await vm.wait() == VmExit(7, "out of luck")
    with pytest.raises(NotFound):
        driver.crash("vm-1")


async def test_machines_when_the_node_dies_end(bundle: Bundle) -> None:
    """The end of the node can be played."""
    driver = FakeDriver()
    vm = await driver.start(CONFIG, bundle)
    driver.node_dies()
    assert driver.live == []
    assert (await vm.wait()).status == -signal.SIGKILL


class TestAgent:
    async def test_agent_that_returns_ends_the_machine_well(self, bundle: Bundle) -> None:
        """The agent's goodbye is the machine's end, as in a real one."""

        async def agent(endpoint: Endpoint, vm_id: str) -> None:
            assert (endpoint.path, vm_id) == (bundle.link_socket, "vm-1")

        vm = await FakeDriver(agent).start(CONFIG, bundle)
        async with asyncio.timeout(patient(5)):
            assert await vm.wait() == VmExit(0, "exited with status 0")

    async def test_agent_that_raises_ends_the_machine_with_its_error(self, bundle: Bundle) -> None:
        """A defect in a test's agent shows in the reason instead of vanishing."""

        async def agent(endpoint: Endpoint, vm_id: str) -> None:
            raise RuntimeError("agent is broken")

        vm = await FakeDriver(agent).start(CONFIG, bundle)
        async with asyncio.timeout(patient(5)):
            ended = await vm.wait()
        assert ended == VmExit(1, "exited with status 1: RuntimeError('agent is broken')")

    async def test_agent_when_the_machine_is_stopped_has_finished(self, bundle: Bundle) -> None:
        """Stop returns only after the agent has cleaned up."""
        finished = asyncio.Event()

        async def agent(endpoint: Endpoint, vm_id: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                finished.set()

        vm = await FakeDriver(agent).start(CONFIG, bundle)
        await asyncio.sleep(0)
        await vm.stop(1)
        assert finished.is_set()


async def test_start_when_the_driver_is_unhealthy_fails_with_its_reason(bundle: Bundle) -> None:
    """What probe says is what start runs into."""
    driver = FakeDriver()
    driver.health = Health(False, "no such thing as a machine", "buy one")
    assert await driver.probe() == driver.health
    with pytest.raises(VmStartFailed, match="no such thing") as failed:
        await driver.start(CONFIG, bundle)
    assert failed.value.hint == "buy one"
