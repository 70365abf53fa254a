"""The contract every driver keeps, the fake included; `--drivers` says which are tried."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from support.machines import SMALL, TIMEOUT_S, Harness

from plexspaces_node.errors import NotFound, Unavailable, VmStartFailed, WrongState
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Driver, LinkEnd, Vm


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to attach."""
    path = tmp_path / "some.cwasm"
    path.write_bytes(b"compiled")
    return path


class TestProbe:
    async def test_probe_of_a_working_driver_says_ok_and_why(self, harness: Harness) -> None:
        """A named driver works here and gives one line to show."""
        health = await harness.driver.probe()
        assert health.ok
        assert health.reason
        assert "\n" not in health.reason

    async def test_capabilities_admit_a_small_machine_and_refuse_none(
        self, harness: Harness
    ) -> None:
        """The bounds a driver states are usable and the right way round."""
        able = harness.driver.capabilities
        assert 0 < able.min_memory_mib <= SMALL.memory_mib < able.max_memory_mib
        assert able.max_vcpus >= 1
        assert able.isolation
        assert isinstance(harness.driver, Driver)


class TestStart:
    async def test_handle_when_start_returns_is_on_disk(self, harness: Harness) -> None:
        """What start returns can be found again from the bundle alone."""
        async with harness.machine() as machine:
            assert machine.bundle.read_handle() == machine.vm.handle
            assert machine.vm.handle.driver == harness.driver.name
            assert machine.vm.handle.vm_id == machine.bundle.vm_id
            assert json.dumps(dict(machine.vm.handle.state))
            assert isinstance(machine.vm, Vm)

    async def test_endpoint_of_a_dialling_guest_is_the_bundles_socket(
        self, harness: Harness
    ) -> None:
        """The agent reached the very socket the node listened on before the start."""
        async with harness.machine() as machine:
            endpoint = machine.vm.endpoint
            assert endpoint.opened_by is harness.driver.capabilities.link
            if endpoint.opened_by is LinkEnd.GUEST_DIALS:
                assert endpoint.path == machine.bundle.link_socket

    async def test_start_with_too_little_memory_names_the_step_and_leaves_nothing(
        self, harness: Harness
    ) -> None:
        """A size the driver cannot make fails before anything is made."""
        bundle = harness.bundle()
        with pytest.raises(VmStartFailed, match="MiB") as failed:
            await harness.driver.start(VmConfig(memory_mib=1), bundle)
        assert failed.value.step == "validate"
        assert failed.value.hint
        await self._check_nothing_left(harness, bundle)

    async def test_start_with_too_many_vcpus_names_the_step_and_leaves_nothing(
        self, harness: Harness
    ) -> None:
        """More CPUs than the driver can give are refused, not silently fewer given."""
        bundle = harness.bundle()
        config = VmConfig(vcpus=harness.driver.capabilities.max_vcpus + 1)
        with pytest.raises(VmStartFailed, match="vcpus") as failed:
            await harness.driver.start(config, bundle)
        assert failed.value.step == "validate"
        await self._check_nothing_left(harness, bundle)

    async def test_start_when_the_handle_cannot_be_written_ends_the_machine(
        self, harness: Harness
    ) -> None:
        """A machine that could not be found again does not stay."""
        bundle = harness.bundle()
        (bundle.path / "handle.json.new").mkdir()
        with pytest.raises(VmStartFailed) as failed:
            await harness.driver.start(SMALL, bundle)
        assert failed.value.step == "handle"
        await self._check_nothing_left(harness, bundle)

    async def test_start_without_its_bundle_fails_and_makes_none(self, harness: Harness) -> None:
        """The bundle comes first; a driver does not make up for it."""
        bundle = harness.bundle()
        bundle.remove()
        with pytest.raises(VmStartFailed):
            await harness.driver.start(SMALL, bundle)
        assert harness.rests(bundle) == []

    @pytest.mark.parametrize("ticks", [0, 1, 3, 10])
    async def test_start_when_cancelled_leaves_nothing(self, harness: Harness, ticks: int) -> None:
        """Whenever the caller loses patience, no machine stays that nobody knows."""
        bundle = harness.bundle()
        starting = asyncio.create_task(harness.driver.start(SMALL, bundle))
        for _ in range(ticks):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():  # it was quicker
            await (await starting).stop(0)
        await self._check_nothing_left(harness, bundle)

    async def test_start_when_the_bundles_machine_runs_is_refused(self, harness: Harness) -> None:
        """One bundle, one machine; the one that runs is not disturbed."""
        async with harness.machine() as machine:
            with pytest.raises(VmStartFailed):
                await harness.driver.start(SMALL, machine.bundle)
            assert machine.bundle.read_handle() == machine.vm.handle
            assert (await machine.vm.stats()).rss_bytes > 0

    async def test_machine_that_runs_is_seen_where_rests_are_looked_for(
        self, harness: Harness
    ) -> None:
        """A search that finds no live machine would prove of a dead one nothing either."""
        async with harness.machine() as machine:
            found = harness.rests(machine.bundle)
            assert str(machine.bundle.path) in found
            assert len(found) > 1

    @staticmethod
    async def _check_nothing_left(harness: Harness, bundle: Bundle) -> None:
        assert harness.rests(bundle) == [str(bundle.path)]
        await harness.driver.destroy(bundle)
        assert harness.rests(bundle) == []


class TestEnd:
    async def test_wait_when_the_machine_is_stopped_returns_to_all_and_again(
        self, harness: Harness
    ) -> None:
        """Every waiter learns of the end, those who ask later included, and all the same."""
        async with harness.machine() as machine:
            async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
                waiters = [group.create_task(machine.vm.wait()) for _ in range(3)]
                impatient = group.create_task(machine.vm.wait())
                await asyncio.sleep(0)
                impatient.cancel()
                stopped = await machine.vm.stop(5)
            assert [waiter.result() for waiter in waiters] == [stopped] * 3
            assert await machine.vm.wait() == stopped

    async def test_stop_when_called_again_says_the_same(self, harness: Harness) -> None:
        """Stop is idempotent and leaves the bundle to destroy."""
        async with harness.machine() as machine:
            first = await machine.vm.stop(5)
            assert first.reason == "stopped when asked"
            assert await machine.vm.stop(0) == first
            assert harness.rests(machine.bundle) == [str(machine.bundle.path)]

    async def test_wait_when_the_machine_is_killed_says_so(self, harness: Harness) -> None:
        """A machine that dies by itself wakes who waits, with a status and a reason."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            harness.kill(machine.vm)
            ended = await machine.vm.wait()
            if harness.statuses:
                assert ended.status == -signal.SIGKILL
                assert ended.reason == "killed by SIGKILL"
            else:
                assert (ended.status, ended.reason) == (None, "Firecracker ended")

    async def test_stop_after_the_machine_died_returns_how_it_died(self, harness: Harness) -> None:
        """Stopping what is dead neither fails nor hides why it died."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            harness.kill(machine.vm)
            ended = await machine.vm.wait()
            assert await machine.vm.stop(1) == ended

    async def test_link_when_the_machine_is_stopped_ends(self, harness: Harness) -> None:
        """The node's end of the link sees the end of the stream."""
        async with harness.machine() as machine:
            await machine.vm.stop(5)
            assert await machine.link.line() == ""

    async def test_two_machines_when_one_dies_the_other_lives(self, harness: Harness) -> None:
        """Machines share nothing that could take both down."""
        async with harness.machine() as one, harness.machine() as other:
            assert one.bundle.path != other.bundle.path
            harness.kill(one.vm)
            await one.vm.wait()
            await harness.driver.destroy(one.bundle)
            assert (await other.vm.stats()).rss_bytes > 0
            assert harness.rests(one.bundle) == []


class TestAttach:
    async def test_attach_gives_a_path_with_the_files_bytes(
        self, harness: Harness, file: Path
    ) -> None:
        """The agent can open what was attached."""
        async with harness.machine() as machine:
            path = await machine.vm.attach(file)
            assert harness.attached(machine, path) == b"compiled"

    async def test_attach_when_called_again_is_refused(self, harness: Harness, file: Path) -> None:
        """A machine takes one file in its life, and keeps it."""
        async with harness.machine() as machine:
            path = await machine.vm.attach(file)
            with pytest.raises(WrongState):
                await machine.vm.attach(file)
            assert harness.attached(machine, path) == b"compiled"

    async def test_attach_of_a_missing_file_is_not_found_and_spends_nothing(
        self, harness: Harness, file: Path
    ) -> None:
        """After a wrong path the right one can still be attached."""
        async with harness.machine() as machine:
            with pytest.raises(NotFound):
                await machine.vm.attach(file.with_name("missing"))
            assert await machine.vm.attach(file)

    async def test_attach_when_the_machine_has_ended_is_unavailable(
        self, harness: Harness, file: Path
    ) -> None:
        """A dead machine takes nothing."""
        async with harness.machine() as machine:
            await machine.vm.stop(5)
            with pytest.raises(Unavailable):
                await machine.vm.attach(file)

    async def test_attached_file_when_the_machine_is_destroyed_stays(
        self, harness: Harness, file: Path
    ) -> None:
        """What was attached is the node's, not the machine's."""
        async with harness.machine() as machine:
            await machine.vm.attach(file)
        assert file.read_bytes() == b"compiled"


class TestStats:
    async def test_stats_of_a_live_machine_are_positive(self, harness: Harness) -> None:
        """What a machine costs is measured, and not nothing."""
        async with harness.machine() as machine:
            stats = await machine.vm.stats()
            assert stats.rss_bytes > 0
            assert stats.cpu_ns > 0

    async def test_stats_when_the_machine_has_ended_are_unavailable(self, harness: Harness) -> None:
        """No numbers are made up for a machine that is gone."""
        async with harness.machine() as machine:
            await machine.vm.stop(5)
            with pytest.raises(Unavailable):
                await machine.vm.stats()


class TestDestroy:
    async def test_destroy_of_a_live_machine_leaves_nothing(self, harness: Harness) -> None:
        """Destroy needs no stop before it; who waits learns of the end."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            await harness.driver.destroy(machine.bundle)
            assert harness.rests(machine.bundle) == []
            assert (await machine.vm.wait()).reason

    async def test_destroy_without_a_vm_object_ends_the_machine(self, harness: Harness) -> None:
        """A restarted node destroys what it did not start."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            await harness.restarted().destroy(machine.bundle)
            assert harness.rests(machine.bundle) == []
            await machine.vm.wait()

    @pytest.mark.parametrize("content", [None, b"", b'{"driver": "pro', b"[]", b'{"pid": 1}'])
    async def test_destroy_without_a_readable_handle_ends_the_machine(
        self, harness: Harness, content: bytes | None
    ) -> None:
        """A crash before the handle was whole leaves no orphan."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            handle = machine.bundle.path / "handle.json"
            handle.unlink() if content is None else handle.write_bytes(content)
            assert machine.bundle.read_handle() is None
            await harness.restarted().destroy(machine.bundle)
            assert harness.rests(machine.bundle) == []
            await machine.vm.wait()

    async def test_destroy_when_already_gone_is_silent(self, harness: Harness) -> None:
        """Destroying twice, or what never was, is no error."""
        bundle = harness.bundle()
        await harness.driver.destroy(bundle)
        await harness.driver.destroy(bundle)
        assert harness.rests(bundle) == []

    async def test_destroy_by_two_at_once_leaves_nothing(self, harness: Harness) -> None:
        """Two who clean up do not trip over each other."""
        async with harness.machine() as machine, asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(
                harness.driver.destroy(machine.bundle), harness.driver.destroy(machine.bundle)
            )
            assert harness.rests(machine.bundle) == []
