"""What only the Firecracker driver promises: how the real one is held, and how it ends.

Needs Firecracker, KVM and a guest image: run when `--drivers` names firecracker or
firecracker-jailed.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.firecracker import FirecrackerHarness
from support.patience import patient

from plexspaces_node.vm.firecracker.jailer import find_cgroups
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.users import FIRST_UID, LAST_UID

KINDS = ("firecracker", "firecracker-jailed")


@pytest.fixture(params=KINDS)
async def machines(request: pytest.FixtureRequest, root: Path) -> FirecrackerHarness:
    """The Firecracker driver, jailed and not, as far as named."""
    kind: str = request.param
    if kind not in request.config.getoption("--drivers").split(","):
        pytest.skip(f"boots machines: name it with --drivers={kind}")
    harness, health = await FirecrackerHarness.probed(root, jailed=kind == KINDS[1])
    assert health.ok, f"--drivers names {kind}, but: {health.reason} (hint: {health.hint})"
    return harness


async def test_firecracker_holds_nothing_of_the_node(machines: FirecrackerHarness) -> None:
    """No capability, no new privileges, its filters; jailed: a user, a root and a PID space."""
    async with machines.machine() as machine:
        pid = int(machine.vm.handle.state["pid"])
        status = _status_of(pid)
        assert int(status["CapEff"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        root = os.stat(f"/proc/{pid}/root/")
        ours = os.stat("/")
        jailed = (root.st_dev, root.st_ino) != (ours.st_dev, ours.st_ino)
        uid = int(status["Uid"].split()[0])
        assert jailed is machines.jailed
        assert (FIRST_UID <= uid <= LAST_UID) is machines.jailed
        assert (len(status["NSpid"].split()) == 2) is machines.jailed


async def test_two_machines_are_two_users(machines: FirecrackerHarness) -> None:
    """Jailed, no machine can touch another's files or processes."""
    if not machines.jailed:
        pytest.skip("the user of a machine that is not jailed is the node's")
    async with machines.machine() as one, machines.machine() as two:
        uids = {_status_of(int(m.vm.handle.state["pid"]))["Uid"].split()[0] for m in (one, two)}
        assert len(uids) == 2


async def test_group_bounds_a_jailed_machine_and_goes_with_it(
    machines: FirecrackerHarness,
) -> None:
    """Memory and processes have a limit; nothing of the group stays."""
    cgroups = find_cgroups(Path("/proc/self/mounts").read_text())
    if not machines.jailed or cgroups is None:
        pytest.skip("only jailed machines on a host with cgroup v2 have a group")
    async with machines.machine() as machine:
        pid = str(machine.vm.handle.state["pid"])
        group = cgroups.group(machine.bundle.vm_id)
        # A thread of the kernel that works for this machine may be with it.
        assert pid in (group / "cgroup.procs").read_text().split()
        if "memory" in cgroups.controllers:
            assert (group / "memory.max").read_text().strip().isdigit()
        await machine.vm.stop(5)
    assert not group.exists()


async def test_guest_that_is_asked_to_restart_ends_firecracker(
    machines: FirecrackerHarness,
) -> None:
    """Ctrl-Alt-Del is enough for a guest whose kernel is well; nobody has to be killed."""
    async with machines.machine() as machine:
        pid = int(machine.vm.handle.state["pid"])
        async with asyncio.timeout(patient(30)):
            ended = await machine.vm.stop(60)
        assert ended.reason == "stopped when asked"
        assert ended.status in (0, None)
        assert "Restarting system" in machine.bundle.console_tail()
        assert procfs.identify(pid) is None


def _status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
