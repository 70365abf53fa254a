"""What only the process driver promises: how its agents are held, and that they die with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from support.machines import SMALL, STANDIN_AGENT, TIMEOUT_S, Machine, ProcessHarness

from plexspaces_node.errors import Unavailable, VmStartFailed
from plexspaces_node.model import MIB
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import VmExit
from plexspaces_node.vm.host_process import HostProcess
from plexspaces_node.vm.process import ProcessDriver
from plexspaces_node.vm.sandbox import DATA_RESERVE_MIB, DESCRIPTOR_LIMIT, FILE_LIMIT_BYTES

NODE = """
import asyncio, json, sys
from pathlib import Path
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.process import ProcessDriver

async def main(root, agent, bubblewrap):
    bundle = Bundle.create(Path(root), "vm-orphan", VmConfig(memory_mib=64))
    greeted = asyncio.Event()

    async def accept(reader, writer):
        await reader.readline()
        accepted.append(writer)
        greeted.set()

    accepted = []
    server = await asyncio.start_unix_server(accept, bundle.link_socket)
    argv = (sys.executable, "-I", "-c", Path(agent).read_text(), "--deaf")
    driver = ProcessDriver(agent_argv=argv, bubblewrap=bubblewrap or None)
    vm = await driver.start(bundle.config, bundle)
    await greeted.wait()
    print(json.dumps(dict(vm.handle.state)), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""
"""A node reduced to its driver, with an agent that only a kill can end."""


class TestDeathOfTheNode:
    async def test_agent_when_the_node_is_killed_dies_too(
        self, processes: ProcessHarness, root: Path
    ) -> None:
        """After kill -9 of the node no agent runs, and the next node can clear its bundle."""
        bwrap = "bwrap" if processes.wrapped else ""
        node = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NODE, str(root), str(STANDIN_AGENT), bwrap),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert node.stdout is not None
        async with AsyncExitStack() as undo, asyncio.timeout(TIMEOUT_S):
            state = json.loads(await node.stdout.readline())
            bundle = Bundle.open(root / "vm-orphan")
            undo.push_async_callback(processes.driver.destroy, bundle)
            members = procfs.tree(state["pid"])
            assert members
            node.kill()
            await node.wait()
            for member in members:
                await _ended(member)
            assert procfs.with_arguments(bundle.vm_id, str(bundle.link_socket)) == []
        assert not bundle.path.exists()


class TestSandbox:
    async def test_environment_of_the_agent_is_bare(
        self, processes: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing of the node's environment reaches the agent, secrets least of all."""
        monkeypatch.setenv("NODE_SECRET", "x")
        facts = await _facts(processes)
        ours = {name: facts["environment"][name] for name in ("PATH", "LANG", "HOME")}
        assert ours == {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
        assert set(facts["environment"]) - set(ours) <= {"LC_CTYPE", "PWD"}

    async def test_descriptors_of_the_node_do_not_reach_the_agent(
        self, processes: ProcessHarness, tmp_path: Path
    ) -> None:
        """An inheritable file of the node stays the node's; stdin is empty, output is the log."""
        secret = tmp_path / "registry.db"
        with secret.open("w") as file:
            os.set_inheritable(file.fileno(), True)
            facts = await _facts(processes)
        names = [Path(path).name for path in facts["descriptors"]]
        assert "registry.db" not in names
        assert sorted(name for name in names if not name.startswith("socket")) == [
            "console.log",
            "console.log",
            "null",
        ]

    async def test_limits_of_the_agent_are_set(self, processes: ProcessHarness) -> None:
        """Descriptors, core, file size and data are bounded, and cannot be raised again."""
        limits = (await _facts(processes))["limits"]
        data = (SMALL.memory_mib + DATA_RESERVE_MIB) * MIB
        expected = {"nofile": DESCRIPTOR_LIMIT, "core": 0, "fsize": FILE_LIMIT_BYTES, "data": data}
        assert limits == {name: [value, value] for name, value in expected.items()}

    async def test_agent_has_no_privileges_to_speak_of(self, processes: ProcessHarness) -> None:
        """No new privileges; and no capability even under a node that runs as root."""
        facts = await _facts(processes)
        assert facts["no_new_privs"] == "1"
        to_read_where_python_lies = 1 << 2  # CAP_DAC_READ_SEARCH
        allowed = 0 if processes.wrapped else to_read_where_python_lies
        assert facts["capabilities"] & ~allowed == 0

    async def test_agent_leads_a_session_away_from_any_terminal(
        self, processes: ProcessHarness
    ) -> None:
        """Ctrl-C in the node's terminal reaches the node only."""
        facts = await _facts(processes)
        assert facts["session"] != os.getsid(0)

    async def test_bubblewrap_hides_the_host(self, processes: ProcessHarness) -> None:
        """No network, no other process, no file but Python's and its own, nothing writable.

        Without bubblewrap the listings claim none of it.
        """
        if not processes.wrapped:
            assert "bubblewrap" not in processes.driver.capabilities.isolation
            return
        other = processes.bundle()
        secrets = ["/etc/passwd", "/home", "/root/.bashrc", "/sys", str(other.path)]
        async with processes.machine() as machine:
            own = str(machine.bundle.path)
            facts = await _ask(machine, "/", "/tmp", "/dev", "/dev/shm", own, *secrets)
        other.remove()
        assert facts["interfaces"] == ["lo"]
        assert facts["processes"] <= 2
        assert facts["writable"] == []
        assert facts["cwd"] == own
        assert set(facts["visible"]) <= {"/", "/tmp", "/dev", "/dev/shm", own}

    async def test_webassembly_may_use_the_memory_asked_for_and_not_much_more(
        self, processes: ProcessHarness
    ) -> None:
        """The data limit lets wasmtime reserve its gigabytes, and bounds what is really used."""
        source = f"""
from wasmtime import Engine, Limits, Memory, MemoryType, Store, WasmtimeError
store = Store(Engine())
memory = Memory(store, MemoryType(Limits(1, None)))
memory.grow(store, {SMALL.memory_mib} * 16 - 1)
try:
    memory.grow(store, {DATA_RESERVE_MIB} * 16)
except WasmtimeError:
    raise SystemExit(7)
"""
        assert (await _run(processes, processes.of_python(source))).status == 7

    async def test_console_log_when_flooded_stays_within_its_limit(
        self, processes: ProcessHarness
    ) -> None:
        """An agent that writes without end fills no disk."""
        source = """
import os
try:
    while True: os.write(1, b"x" * 1048576)
except OSError as error:
    raise SystemExit(9)
"""
        driver = processes.of_python(source)
        bundle = processes.bundle()
        vm = await driver.start(SMALL, bundle)
        async with asyncio.timeout(TIMEOUT_S):
            assert (await vm.wait()).status == 9
        assert bundle.console_log.stat().st_size == FILE_LIMIT_BYTES
        await driver.destroy(bundle)


class TestEnds:
    async def test_agent_that_fails_at_once_is_told_with_its_last_words(
        self, processes: ProcessHarness
    ) -> None:
        """A start whose agent never speaks is explained by its status and its console."""
        ended = await _run(processes, processes.of_agent("--fail"))
        assert ended == VmExit(3, "exited with status 3: no such thing as a link")

    async def test_python_without_the_agent_is_told_by_the_missing_module(
        self, processes: ProcessHarness
    ) -> None:
        """A broken installation names itself in the reason of the end."""
        argv = (sys.executable, "-I", "-m", "plexspaces_node.no_such_program")
        bubblewrap = "bwrap" if processes.wrapped else None
        ended = await _run(processes, ProcessDriver(agent_argv=argv, bubblewrap=bubblewrap))
        assert ended.status == 1
        assert "No module named plexspaces_node.no_such_program" in ended.reason

    async def test_agent_that_obeys_is_given_its_time(self, processes: ProcessHarness) -> None:
        """Stop sends SIGTERM to the agent itself, within whatever wraps it."""
        async with processes.machine() as machine:
            ended = await machine.vm.stop(TIMEOUT_S)
            assert ended == VmExit(-signal.SIGTERM, "stopped when asked")

    async def test_agent_that_is_deaf_is_killed_after_the_grace(
        self, processes: ProcessHarness
    ) -> None:
        """Stop insists, and leaves nothing of what it killed."""
        async with processes.machine(processes.of_agent("--deaf")) as machine:
            ended = await machine.vm.stop(0.05)
            assert ended == VmExit(-signal.SIGKILL, "killed while stopping")
            assert processes.rests(machine.bundle) == [str(machine.bundle.path)]

    async def test_what_the_agent_started_ends_with_it(self, processes: ProcessHarness) -> None:
        """A child of a dead agent does not stay, whoever killed the agent."""
        source = """
import signal, socket, subprocess, sys
if sys.argv[-1] != "child":
    subprocess.Popen([*sys.orig_argv, "child"])
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[4])
    link.sendall(f"hello {sys.argv[2]}\\n".encode())
signal.pause()
"""
        async with processes.machine(processes.of_python(source)) as machine:
            living = procfs.tree(int(machine.vm.handle.state["pid"]))
            assert len(living) == (4 if processes.wrapped else 2)
            processes.kill(machine.vm)
            await machine.vm.wait()
            await processes.driver.destroy(machine.bundle)
            assert processes.rests(machine.bundle) == []


class TestProbe:
    async def test_probe_without_bubblewrap_installed_says_how_to_get_it(self) -> None:
        """The driver works without it, and says what is missing."""
        driver = ProcessDriver(bubblewrap="no-such-bwrap")
        health = await driver.probe()
        assert health.ok
        assert health.reason.endswith("without bubblewrap: it is not installed")
        assert health.hint == "install it: apt-get install bubblewrap"
        assert "bubblewrap" not in driver.capabilities.isolation

    async def test_probe_when_bubblewrap_does_not_work_goes_without(self, tmp_path: Path) -> None:
        """A bwrap the kernel forbids is found out by running it, and its words are kept."""
        broken = tmp_path / "bwrap"
        broken.write_text("#!/bin/sh\necho bwrap: no permissions >&2; exit 1\n")
        broken.chmod(0o755)
        health = await ProcessDriver(bubblewrap=str(broken)).probe()
        assert health.ok
        assert "bwrap: no permissions" in health.reason
        assert health.hint

    async def test_probe_without_a_python_is_not_ok_and_start_says_so(
        self, root: Path, tmp_path: Path
    ) -> None:
        """An interpreter that is not there is told before a machine is made of it."""
        driver = ProcessDriver(str(tmp_path / "python"), bubblewrap=None)
        health = await driver.probe()
        assert not health.ok
        bundle = Bundle.create(root, "vm-none", SMALL)
        with pytest.raises(VmStartFailed, match="does not run") as failed:
            await driver.start(SMALL, bundle)
        assert failed.value.step == "validate"
        await driver.destroy(bundle)

    async def test_probe_without_util_linux_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A host without the tools is told their package."""
        monkeypatch.setenv("PATH", "/nonexistent")
        health = await ProcessDriver().probe()
        assert not health.ok
        assert health.hint == "install util-linux: apt-get install util-linux"


class TestHandle:
    @pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}, {"pid": 1}])
    async def test_handle_of_a_reused_pid_names_nobody(
        self, processes: ProcessHarness, change: dict[str, Any]
    ) -> None:
        """A pid that now means another process is neither recovered nor killed."""
        async with processes.machine() as machine:
            state = {**machine.vm.handle.state, **change}
            stale = type(machine.vm.handle)("process", 1, "vm-stale", state)
            bundle = Bundle.create(processes.root, "vm-stale", SMALL)
            bundle.write_handle(stale)
            with pytest.raises(Exception, match="has ended"):
                await processes.restarted().recover(stale, bundle)
            await processes.restarted().destroy(bundle)
            assert (await machine.vm.stats()).rss_bytes > 0


async def _facts(processes: ProcessHarness) -> dict[str, Any]:
    async with processes.machine() as machine:
        return await _ask(machine)


async def _ask(machine: Machine, *paths: str) -> dict[str, Any]:
    machine.link.say(" ".join(["facts", *paths]))
    answer: dict[str, Any] = json.loads(await machine.link.line())
    return answer


async def _run(processes: ProcessHarness, driver: ProcessDriver) -> VmExit:
    bundle = processes.bundle()
    vm = await driver.start(SMALL, bundle)
    async with asyncio.timeout(TIMEOUT_S):
        ended = await vm.wait()
    with pytest.raises(Unavailable):
        await vm.stats()
    await driver.destroy(bundle)
    assert processes.rests(bundle) == []
    return ended


async def _ended(identity: procfs.ProcessId) -> None:
    if procfs.identify(identity.pid) == identity:
        await HostProcess.adopt(identity, ()).wait()
