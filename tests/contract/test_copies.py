"""Machines that are copies of a template: what is kept, what is shared, and when copying fails.

QEMU is a stand-in here, so that every step of copying can fail, hang or die on every host.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from support.machines import SMALL
from support.patience import patient
from support.qemu import FakeQemuHarness

from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.node.machines.machine import AgentLimits, start_machine
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.image import ROOTFS
from plexspaces_node.vm.qemu import template as qemu_template
from plexspaces_node.vm.qemu.driver import COPIES, FAILED_COPIES, QemuDriver
from plexspaces_node.vm.qemu.template import KEPT

LIMITS = AgentLimits("node-test", message_limit=1 << 20, in_flight_limit=16)
BOUND_S = patient(40.0)


@pytest.fixture
async def stand_in(root: Path, tmp_path: Path) -> AsyncIterator[FakeQemuHarness]:
    """QEMU, stood in for; afterwards no file of a template may be open."""
    yield FakeQemuHarness(root, tmp_path)
    assert files_of_templates() == []


_OTHERS: set[tuple[int, int]] = set()
"""Files that were open before the test: templates of drivers that other tests keep."""


@pytest.fixture(autouse=True)
def _others() -> None:
    _OTHERS.clear()
    _OTHERS.update(identity for identity, _ in _files_of_templates())


def files_of_templates() -> list[str]:
    """Name the templates' files that this process has opened since the test began."""
    return [name for identity, name in _files_of_templates() if identity not in _OTHERS]


def _files_of_templates() -> list[tuple[tuple[int, int], str]]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        # But for the one by which the directory is read.
        with suppress(FileNotFoundError):
            name, status = os.readlink(entry), entry.stat()
            if "plexspaces-" in name:
                found.append(((status.st_dev, status.st_ino), name))
    return found


@pytest.fixture
async def hurried(root: Path, tmp_path: Path) -> AsyncIterator[FakeQemuHarness]:
    """The same, whose drivers give up soon what hangs."""
    yield FakeQemuHarness.hurried(root, tmp_path)
    assert files_of_templates() == []


async def appeared(file: Path) -> None:
    """Wait until a stand-in has come to where it was told to hang, and says so by a file."""
    while not file.exists():
        await asyncio.sleep(0.01)


def arguments_of(bundle: Bundle) -> list[str]:
    """Return the command line of the process that is a machine."""
    handle = bundle.read_handle()
    assert handle is not None
    return Path(f"/proc/{handle.state['pid']}/cmdline").read_text().split("\0")


async def start(
    stand_in: FakeQemuHarness,
    driver: QemuDriver,
    config: VmConfig = SMALL,
    *,
    application: str = "",
) -> bool:
    """Start a machine as a node does and end it; tell whether it was a copy."""
    bundle = stand_in.bundle(config, application=application)
    async with asyncio.timeout(BOUND_S):
        machine = await start_machine(driver, bundle, LIMITS)
        arguments = arguments_of(bundle)
        await machine.destroy()
    assert stand_in.rests(bundle) == []
    assert ("-incoming" in arguments) is ("-kernel" not in arguments)
    return "-incoming" in arguments


async def test_every_machine_is_a_copy_and_one_boot_is_enough_for_all_of_a_size(
    stand_in: FakeQemuHarness,
) -> None:
    """The first one's boot makes the template; the next finds it."""
    driver = stand_in.ready()
    assert await start(stand_in, driver)
    files = files_of_templates()
    assert len(files) == 1
    assert await start(stand_in, driver)
    assert files_of_templates() == files
    driver.close()


async def test_two_of_a_size_at_once_make_one_template(stand_in: FakeQemuHarness) -> None:
    """The second waits for the first's boot and boots nothing."""
    driver = stand_in.ready()
    copied = await asyncio.gather(start(stand_in, driver), start(stand_in, driver))
    assert all(copied)
    assert len(files_of_templates()) == 1
    driver.close()


async def test_template_when_another_tenant_starts_a_machine_then_it_has_its_own(
    stand_in: FakeQemuHarness,
) -> None:
    """Copies share pages: by how fast they are read, one could tell what another has read."""
    driver = stand_in.ready()
    await start(stand_in, driver, application="cart")
    first = files_of_templates()
    await start(stand_in, driver, application="cart")
    await start(stand_in, driver)
    assert files_of_templates() == first
    await start(stand_in, driver, application="shop/cart")
    assert len(files_of_templates()) == 2
    await start(stand_in, driver, application="shop/books")
    assert len(files_of_templates()) == 2
    driver.close()


async def test_of_many_sizes_the_templates_used_last_are_kept(stand_in: FakeQemuHarness) -> None:
    """The host's memory is not given to every size that was ever asked for."""
    driver = stand_in.ready()
    for memory_mib in range(128, 128 + KEPT + 2):
        await start(stand_in, driver, VmConfig(1, memory_mib))
    assert len(files_of_templates()) == KEPT
    driver.close()
    driver.close()


async def test_driver_that_was_closed_makes_its_templates_anew(stand_in: FakeQemuHarness) -> None:
    """A node that ends gives the memory back; a driver outlives its node in a program."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    driver.close()
    assert files_of_templates() == []
    assert await start(stand_in, driver)
    driver.close()


async def test_image_that_was_made_anew_is_booted_and_its_old_copy_not_used(
    stand_in: FakeQemuHarness,
) -> None:
    """A template is of one image: what is deployed next runs the new one."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    record = stand_in.image / "image.json"
    record.write_text(record.read_text().replace('"digest": "', '"digest": "0'))
    await start(stand_in, driver)
    assert len(files_of_templates()) == 2
    driver.close()


async def test_copy_has_the_root_of_its_template_though_the_image_is_made_anew_meanwhile(
    stand_in: FakeQemuHarness, tmp_path: Path
) -> None:
    """What is in its memory of the root is of that file, and of no other of the same name."""
    reached = tmp_path / "reached"
    driver = stand_in.ready("--hang", "migrate", "--once", str(reached), "--resume")
    root = stand_in.image / ROOTFS
    before = root.stat().st_ino
    bundle = stand_in.bundle()
    starting = asyncio.create_task(driver.start(bundle.config, bundle))
    async with asyncio.timeout(BOUND_S):
        await appeared(reached)
        (stand_in.image / "new").write_bytes(root.read_bytes())
        (stand_in.image / "new").rename(root)
        reached.write_text("go on")
        vm = await starting
    assert root.stat().st_ino != before
    assert "-incoming" in arguments_of(bundle)
    opened = Path(f"/proc/{vm.handle.state['pid']}/fd")
    inodes = {entry.stat().st_ino for entry in opened.iterdir() if entry.exists()}
    assert before in inodes
    await vm.stop(0)
    await driver.destroy(bundle)
    driver.close()


async def test_qemu_that_was_upgraded_boots_and_takes_up_no_state_of_the_old(
    stand_in: FakeQemuHarness,
) -> None:
    """Its devices may be others: the path is the same, the program is not."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    assert driver._host is not None
    program = Path(driver._host.emulator.program)
    newer = program.with_name("newer")
    newer.write_bytes(program.read_bytes())
    newer.chmod(0o755)
    newer.rename(program)
    await start(stand_in, driver)
    assert len(files_of_templates()) == 2
    driver.close()


async def test_new_size_that_boots_for_long_holds_up_no_other(
    stand_in: FakeQemuHarness, tmp_path: Path
) -> None:
    """Many that wait for one template leave room for copies of another."""
    reached = tmp_path / "reached"
    driver = stand_in.ready("--hang-of", "130", "--hang", "migrate", "--once", str(reached))
    await start(stand_in, driver)
    bundles = [stand_in.bundle(VmConfig(1, 130)) for _ in range(COPIES + 1)]
    waiting = [asyncio.create_task(driver.start(one.config, one)) for one in bundles]
    async with asyncio.timeout(BOUND_S):
        await appeared(reached)
        assert await start(stand_in, driver)
        assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for bundle in bundles:
        await driver.destroy(bundle)
        assert stand_in.rests(bundle) == []
    driver.close()


async def test_starts_that_waited_for_a_template_that_failed_boot_at_once(
    stand_in: FakeQemuHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """One failure is enough for all of them: none makes the attempt again."""
    driver = stand_in.ready("--fail", "migrate")
    copied = await asyncio.gather(*(start(stand_in, driver) for _ in range(4)))
    assert not any(copied)
    assert caplog.text.count("because it could not be copied") == 1


async def test_template_that_is_made_while_the_driver_is_closed_is_not_kept(
    stand_in: FakeQemuHarness, tmp_path: Path
) -> None:
    """It serves the start that made it, and is gone then."""
    reached = tmp_path / "reached"
    driver = stand_in.ready("--hang", "migrate", "--once", str(reached), "--resume")
    starting = asyncio.create_task(start(stand_in, driver))
    async with asyncio.timeout(BOUND_S):
        await appeared(reached)
        driver.close()
        reached.write_text("go on")
        assert await starting


async def test_start_that_waits_its_turn_has_its_template_though_the_driver_is_closed(
    stand_in: FakeQemuHarness,
) -> None:
    """The number of a file that was closed under it might be another file's by then."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    async with AsyncExitStack() as turns:
        for _ in range(COPIES):
            await turns.enter_async_context(driver._copies)
        waiting = asyncio.create_task(start(stand_in, driver))
        while not driver._copies._waiters:
            await asyncio.sleep(0.01)
        driver.close()
    assert await waiting
    assert files_of_templates() == []


async def test_memory_that_is_short_is_found_by_giving_the_templates_up(
    stand_in: FakeQemuHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all that can be given up without anybody's harm."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    monkeypatch.setattr(
        procfs, "available_memory_mib", lambda: 100 if files_of_templates() else 200
    )
    assert await start(stand_in, driver)
    driver.close()


async def test_machines_boot_each_by_themselves_where_templates_are_not_wanted(
    stand_in: FakeQemuHarness,
) -> None:
    """Nothing is shared then, and nothing kept."""
    driver = stand_in.ready()
    driver._templates = None
    assert not await start(stand_in, driver)
    assert files_of_templates() == []


async def test_template_can_be_changed_by_nobody(stand_in: FakeQemuHarness) -> None:
    """A QEMU that was taken over has the memory of all copies open, and can write none of it."""
    driver = stand_in.ready()
    await start(stand_in, driver)
    templates = driver._templates
    assert templates is not None
    [template] = templates._kept.values()
    assert os.fstat(template.memory).st_size == SMALL.memory_mib * MIB
    for change in (
        lambda: os.pwrite(template.memory, b"x", 0),
        lambda: os.ftruncate(template.memory, 0),
    ):
        with pytest.raises(PermissionError) as refused:
            change()
        assert refused.value.errno == errno.EPERM
    driver.close()
    template.close()


async def test_console_of_a_copy_begins_with_what_its_template_said(
    stand_in: FakeQemuHarness,
) -> None:
    """The boot is the past of the copy too, and the log says that it is a copy."""
    driver = stand_in.ready()
    bundle = stand_in.bundle()
    machine = await start_machine(driver, bundle, LIMITS)
    assert bundle.console_log.read_text().startswith("-- a copy of the machine that booted at 20")
    await machine.destroy()
    driver.close()


@pytest.mark.parametrize(
    "fault",
    [
        *("--fail stop", "--fail getfd", "--fail migrate", "--fail migrate-incoming"),
        *("--die stop", "--die migrate", "--die migrate-incoming"),
        *("--garble migrate", "--garble migrate-incoming"),
        *("--hang migrate", "--hang migrate-incoming"),
        *("--spoil migrate", "--spoil migrate-incoming"),
    ],
)
async def test_machine_boots_where_copying_does_not_work(
    hurried: FakeQemuHarness,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The start takes longer then, and the log says why; nothing of the attempt is left."""
    driver = hurried.ready(*fault.split())
    assert not await start(hurried, driver)
    assert caplog.text.count("because it could not be copied") == 1
    driver.close()


async def test_copying_that_failed_three_times_in_a_row_is_tried_no_more(
    stand_in: FakeQemuHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt costs time, and the third says that there will be none."""
    driver = stand_in.ready("--fail", "migrate")
    for starts in range(1, FAILED_COPIES + 2):
        assert not await start(stand_in, driver)
        failed = min(starts, FAILED_COPIES)
        assert caplog.text.count("because it could not be copied") == failed
        assert ("instead of being copied from now on" in caplog.text) is (failed == FAILED_COPIES)


async def test_machine_is_copied_again_after_one_that_could_not_be(
    stand_in: FakeQemuHarness, tmp_path: Path
) -> None:
    """What went wrong once, on a host without memory for a moment, is no reason for ever."""
    once = ("--once", str(tmp_path / "once"))
    driver = stand_in.ready("--die", "migrate-incoming", *once)
    assert not await start(stand_in, driver)
    assert await start(stand_in, driver)
    assert driver._failed_copies == 0
    driver.close()


async def test_template_whose_copy_is_mute_is_none(hurried: FakeQemuHarness) -> None:
    """A copy has to speak before others are made: all would be as mute."""
    driver = hurried.ready("--guest", "mute")
    bundle = hurried.bundle()
    vm = await driver.start(bundle.config, bundle)
    assert "-kernel" in arguments_of(bundle)
    assert files_of_templates() == []
    await vm.stop(0)
    await driver.destroy(bundle)


@pytest.mark.parametrize("fault", ["--fail migrate", "--hang migrate-incoming", "--guest mute"])
async def test_probe_finds_out_that_copying_does_not_work(
    hurried: FakeQemuHarness,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The level works all the same, by booting; a copy whose agent is silent counts as none."""
    driver = hurried.of_program(*fault.split())
    health = await driver.probe()
    assert health.ok
    assert "VMs boot instead of being copied from now on" in caplog.text
    assert list(hurried.root.iterdir()) == []


async def test_probe_makes_the_template_of_the_usual_size(stand_in: FakeQemuHarness) -> None:
    """So the first deploy of a node boots nothing."""
    driver = stand_in.of_program()
    assert (await driver.probe()).ok
    files = files_of_templates()
    assert len(files) == 1
    assert await start(stand_in, driver, VmConfig())
    assert files_of_templates() == files
    driver.close()


@pytest.mark.parametrize("at", ["cont", "migrate", "migrate-incoming"])
async def test_start_that_is_cancelled_leaves_nothing_wherever_it_was(
    stand_in: FakeQemuHarness, at: str, tmp_path: Path
) -> None:
    """Neither a QEMU nor a file of what would have been a template."""
    reached = tmp_path / "reached"
    driver = stand_in.ready("--hang", at, "--once", str(reached))
    bundle = stand_in.bundle()
    starting = asyncio.create_task(start_machine(driver, bundle, LIMITS))
    async with asyncio.timeout(BOUND_S):
        await appeared(reached)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert stand_in.rests(bundle) == []
    driver.close()


@pytest.mark.parametrize("kernel", ["this one", "before 6.3"])
def test_memory_of_a_machine_has_its_size_and_nobody_executes_it(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not know of the latter makes it all the same."""
    make, can_execute = os.memfd_create, 0o111

    def of_old(name: str, flags: int) -> int:
        if flags & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, "Invalid argument")
        return make(name, flags)

    try:
        os.close(make("trial", qemu_template._NOEXEC_SEAL))
    except OSError:
        kernel = "before 6.3"
    if kernel == "before 6.3":
        monkeypatch.setattr(os, "memfd_create", of_old)
    memory = qemu_template.memory_file(SMALL)
    try:
        found = os.fstat(memory)
        assert found.st_size == SMALL.memory_mib * MIB
        assert bool(found.st_mode & can_execute) is (kernel == "before 6.3")
        with pytest.raises(PermissionError):
            os.ftruncate(memory, 0)
    finally:
        os.close(memory)
