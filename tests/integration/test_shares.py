"""CPU shares as the kernel gives them: needs cgroup v2 that this process may use, as root or not.

Measured on one CPU, on which everything competes. `scripts/kvm-lab` has such a host.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from support.nodes import builder, node_process
from support.patience import patient
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import MIB
from plexspaces_node.node.node import Node
from plexspaces_node.quota import Key, Subject, application_of
from plexspaces_node.vm.host.cgroups import GroupBounds, NodeCgroups, find_place

SOURCES = Path(__file__).parents[2] / "src"
MEMORY_MIB = 128
SMALL = DeployOptions(memory_mib=MEMORY_MIB)
ENOUGH_US = 3_000_000
"""How much processor time is shared out before it is looked who got it."""


@pytest.fixture(autouse=True)
def _usable() -> None:
    try:
        find_place()
    except Unsupported as error:
        pytest.skip(f"{error.message} (hint: {error.hint})")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what boots VMs at each level that `--levels` names."""
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", metafunc.config.getoption("--levels").split(","))


def group_of(pid: int) -> Path:
    """The cgroup that a process is in, below the mount."""
    line = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]
    assert line.startswith("0::")
    return Path("/sys/fs/cgroup", line[4:])


def used_us(group: Path) -> int:
    stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(stat["usage_usec"])


def pin(pid: int) -> None:
    """Let all threads of a process compete on one CPU."""
    cpu = max(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


async def shares(groups: Iterable[Path]) -> list[float]:
    """In percent, what each group gets of what they get together."""
    known = tuple(groups)
    before = [used_us(group) for group in known]
    while True:
        got = [used_us(group) - begin for group, begin in zip(known, before, strict=True)]
        if sum(got) > ENOUGH_US:
            break
        await asyncio.sleep(0.05)
    found = [100 * each / sum(got) for each in got]
    print("shares:", ", ".join(f"{each:.1f} %" for each in found))  # noqa: T201
    return found


@contextmanager
def spinning(groups: NodeCgroups, *where: tuple[str, str]) -> Iterator[None]:
    """Run a program that computes in each of these groups."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for tenant, group in where:
            child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            children.append(child)
            pin(child.pid)
            groups.enter(tenant, group, [child.pid], GroupBounds())
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()
        for tenant, group in where:
            assert groups.leave(tenant, group)
        groups.close()
        assert not groups.root.exists()


async def test_tenants_when_one_has_more_applications_then_they_still_get_the_same() -> None:
    """Three that compute are not three times as much as one."""
    groups = NodeCgroups.open(find_place(), "test")
    where = [("shop", "a"), ("shop", "b"), ("shop", "c"), ("blog", "a")]
    with spinning(groups, *where):
        found = await shares([groups.root / "shop", groups.root / "blog"])
    assert found == pytest.approx([50, 50], abs=5)


async def test_tenant_when_its_quota_is_a_part_of_a_cpu_then_the_other_gets_the_rest() -> None:
    """A quota bounds all applications of a tenant together."""
    groups = NodeCgroups.open(find_place(), "test")
    with spinning(groups, ("shop", "a"), ("shop", "b"), ("blog", "a")):
        groups.bound_tenant("shop", GroupBounds(cpu_percent=20))
        found = await shares([groups.root / "shop", groups.root / "blog"])
    assert found == pytest.approx([20, 80], abs=5)


_DELEGATED = """
import subprocess
from pathlib import Path
from plexspaces_node.vm.host.cgroups import GroupBounds, NodeCgroups, find_place
def group(pid):
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]
place = find_place()
groups = NodeCgroups.open(place, "n")
child = subprocess.Popen(["sleep", "60"])
groups.enter("shop", "a", [child.pid], GroupBounds(cpu_percent=20))
print(place.moves, group("self"), group(child.pid))
child.kill()
child.wait()
print(groups.leave("shop", "a"), groups.close())
"""


def test_node_when_its_cgroup_is_delegated_then_no_root_is_needed() -> None:
    """As systemd delegates one: its directory and these files belong to the node's user."""
    # Of the system: the one that runs this may be in a directory that is root's alone.
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or not python.exists():
        pytest.skip("delegates a cgroup, which needs root, to a Python that everybody may run")
    base = Path("/sys/fs/cgroup/delegated.service")
    base.mkdir()
    (base.parent / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    try:
        for path in (base, *(base / f"cgroup.{name}" for name in ("procs", "subtree_control"))):
            os.chown(path, 65534, 65534)
        user = "setpriv --reuid 65534 --regid 65534 --clear-groups"
        program = f'echo $$ > {base}/cgroup.procs && exec {user} "$@"'
        ran = subprocess.run(
            ["sh", "-c", program, "sh", python, "-c", _DELEGATED],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES)},
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert ran.stdout.splitlines() == [
            "True 0::/delegated.service/plexspaces-node 0::/delegated.service/plexspaces@n/shop/a",
            "True None",
        ], ran.stderr
        assert not (base / "plexspaces@n").exists()
    finally:
        for left in (base / "plexspaces-node", base):
            with suppress(FileNotFoundError):
                left.rmdir()


@asynccontextmanager
async def computing(node: Node, wasm: Path, *names: str) -> AsyncIterator[dict[str, Path]]:
    """Deploy applications that compute without end; yields the group of each."""
    async with NodeClient(node.address) as client:
        groups, messages = {}, []
        try:
            for name in names:
                await client.deploy(name, wasm, options=SMALL)
                pid = (await client.inspect_vm(name)).pid
                pin(pid)
                groups[name] = group_of(pid)
            for name in names:
                sent = client.invoke(name, type="l", timeout_s=patient(60))
                messages.append(asyncio.ensure_future(sent))
            yield groups
        finally:
            for message in messages:
                message.cancel()
            await asyncio.gather(*messages, return_exceptions=True)


async def test_applications_when_they_compute_then_equal_shares_or_as_quotas_say(
    data_dir: Path, probe_wasm: Path, level: str
) -> None:
    """Half for each; 80 to 20 as soon as quotas say so, without a restart; nothing is left."""
    async with builder(data_dir).with_isolation(level).build() as node:
        async with computing(node, probe_wasm, "one", "two") as groups:
            one, two = groups["one"], groups["two"]
            assert one.parent == two.parent
            assert one.parent.name == "default"
            assert await shares([one, two]) == pytest.approx([50, 50], abs=5)
            quotas = node.applications.quotas
            await quotas.set(application_of("one"), {Key.CPU_PERCENT: 80})
            await quotas.set(application_of("two"), {Key.CPU_PERCENT: 20})
            # Soon: the files are written on a thread.
            async with asyncio.timeout(patient(5)):
                while not (two / "cpu.max").read_text().startswith("20000 "):
                    await asyncio.sleep(0.01)
            assert await shares([one, two]) == pytest.approx([80, 20], abs=5)
            found = await quotas.use(Subject("default", "two"))
            told = {use.key: use for use in found.quotas}
            assert told[Key.CPU_PERCENT].enforced
            assert told[Key.CPU_PERCENT].used == pytest.approx(20, abs=10)
            # Known beforehand for Firecracker alone.
            memory = f"{(MEMORY_MIB + 64) * MIB}" if level == "firecracker" else "max"
            assert (one / "memory.max").read_text() == f"{memory}\n"
        await asyncio.gather(*(node.applications.undeploy(name) for name in ("one", "two")))
        assert not one.parent.exists()
    assert not one.parent.parent.exists()


async def test_tenants_of_a_node_when_they_compute_then_each_gets_the_same(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Two applications of one tenant share what one of another gets alone."""
    names = ("shop/one", "shop/two", "blog/one")
    async with (
        builder(data_dir).build() as node,
        computing(node, probe_wasm, *names) as groups,
    ):
        found = await shares([groups[name] for name in names])
        assert found == pytest.approx([25, 25, 50], abs=5)


async def test_groups_when_the_node_was_killed_then_the_next_start_removes_them(
    data_dir: Path, probe_wasm: Path, level: str
) -> None:
    """Also those of a VM that is not there any more."""
    with node_process(data_dir, isolation=level) as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", probe_wasm, options=SMALL)
            pid = (await client.inspect_vm("one")).pid
            left = group_of(pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert left.is_dir()
    async with builder(data_dir).with_isolation(level).build() as node:
        # A VMM outlives its node, and is ended by the next one.
        assert pid not in agents_of(data_dir)
        await node.applications.undeploy("one")
        assert not left.exists()
    assert_nothing_left(data_dir)
    assert not left.parents[1].exists()
    # The jailer's own groups.
    assert not [*Path("/sys/fs/cgroup").glob("plexspaces/*/")]
