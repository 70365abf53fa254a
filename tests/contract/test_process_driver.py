"""What only the process driver promises: how its agents are held, and that they die with it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.machines import SMALL, TIMEOUT_S, ProcessHarness

from plexspaces_node.errors import NotFound, Unavailable, VmStartFailed
from plexspaces_node.model import MIB
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Health, VmExit
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.process import HostProcess
from plexspaces_node.vm.host.users import FIRST_UID, LAST_UID, uid_of, users_exist
from plexspaces_node.vm.process.driver import HANDLE_VERSION, ProcessDriver, ProcessVm

NODE = """
import asyncio, json, sys
from pathlib import Path
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.process.driver import ProcessDriver

async def main(root):
    bundle = Bundle.create(Path(root), "vm-orphan", VmConfig(memory_mib=64))
    greeted = asyncio.Event()

    async def accept(reader, writer):
        await reader.readexactly(8)
        accepted.append(writer)
        greeted.set()

    accepted = []
    server = await asyncio.start_unix_server(accept, bundle.link_socket)
    vm = await ProcessDriver().start(bundle.config, bundle)
    await greeted.wait()
    print(json.dumps(dict(vm.handle.state)), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""
"""A node reduced to its driver."""

RESERVE_MIB = 288
"""What the agent may allocate beyond its machine's memory: `DATA_RESERVE_MIB` of the crate."""


class TestDeathOfTheNode:
    async def test_agent_when_the_node_is_killed_dies_by_the_kernels_hand(
        self, processes: ProcessHarness, root: Path
    ) -> None:
        """Even one that is stopped, and so cannot see its link break; its bundle can be cleared."""
        node = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NODE, str(root)),
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
            os.kill(state["pid"], signal.SIGSTOP)
            node.kill()
            await node.wait()
            for member in members:
                await _ended(member)
            assert procfs.with_arguments(bundle.vm_id, str(bundle.link_socket)) == []
        assert not bundle.path.exists()


class TestSurroundings:
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

    async def test_agent_leads_a_session_away_from_any_terminal(
        self, processes: ProcessHarness
    ) -> None:
        """Ctrl-C in the node's terminal reaches the node only."""
        facts = await _facts(processes)
        assert facts["session"] != os.getsid(0)


class TestWalls:
    async def test_agent_is_held_before_it_is_given_anything(
        self, processes: ProcessHarness
    ) -> None:
        """No new privileges, no capability; under root a user that owns nothing, in no group."""
        async with _agent(processes) as vm:
            status = _status(vm)
            assert status["NoNewPrivs"] == "1"
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(status[capabilities], 16) == 0
            if os.geteuid() == 0 and users_exist():
                uid = uid_of(vm.bundle)
                assert FIRST_UID <= uid <= LAST_UID
                assert status["Uid"].split() == [str(uid)] * 4
                assert status["Gid"].split() == [str(uid)] * 4
                assert status["Groups"] == ""
                assert int(status["CapBnd"], 16) == 0

    async def test_limits_of_the_agent_are_set_for_good(self, processes: ProcessHarness) -> None:
        """Descriptors, core, file size and data are bounded; threads too where they are counted."""
        async with _agent(processes) as vm:
            limits = _limits(vm)
        data = (SMALL.memory_mib + RESERVE_MIB) * MIB
        expected = {
            "Max open files": 256,
            "Max core file size": 0,
            "Max file size": 16 * MIB,
            "Max data size": data,
        }
        if os.geteuid() == 0 and users_exist():
            expected["Max processes"] = 128
        assert {name: limits[name] for name in expected} == {
            name: (str(value), str(value)) for name, value in expected.items()
        }

    async def test_bundle_is_open_to_the_machines_user_by_name_alone(
        self, processes: ProcessHarness, tmp_path: Path
    ) -> None:
        """It may enter its own directory and read its artifact, and list or write nothing."""
        artifact = tmp_path / "code.cwasm"
        artifact.write_bytes(b"compiled")
        artifact.chmod(0o600)
        async with _agent(processes) as vm:
            bundle = vm.bundle
            assert await vm.attach(artifact) == "artifact.cwasm"
            if os.geteuid() == 0 and users_exist():
                entered = bundle.path.stat()
                assert (entered.st_uid, entered.st_gid) == (0, uid_of(bundle))
                assert stat.S_IMODE(entered.st_mode) == 0o710
                assert stat.S_IMODE(bundle.artifact.stat().st_mode) == 0o604
            others = (bundle.path / "config.json", bundle.path / "handle.json", bundle.console_log)
            assert {stat.S_IMODE(file.stat().st_mode) for file in others} == {0o600}

    async def test_agent_that_makes_a_call_no_agent_makes_is_told_so(
        self, processes: ProcessHarness
    ) -> None:
        """What the filter kills for is no riddle of a signal's name."""
        source = "import os, signal; os.kill(os.getpid(), signal.SIGSYS)"
        ended = await _run(processes, processes.of_python(source))
        assert ended.status == -signal.SIGSYS
        assert "a system call that no agent makes" in ended.reason


class TestEnds:
    async def test_agent_that_fails_at_once_is_told_with_its_last_words(
        self, processes: ProcessHarness
    ) -> None:
        """A start whose agent never speaks is explained by its status and its console."""
        ended = await _run(processes, processes.of_agent("--fail"))
        assert ended == VmExit(3, "exited with status 3: no such thing as a link")

    async def test_advice_of_a_runtime_is_no_last_word(self, processes: ProcessHarness) -> None:
        """What a program in Rust says after it said why it ends."""
        said = ("memory allocation of 9 bytes failed", "note: run with `x`", "skipping backtrace")
        ended = await _run(processes, processes.of_python(f"exit({chr(10).join(said)!r})"))
        assert ended.reason == f"exited with status 1: {said[0]}"

    async def test_agent_that_obeys_is_given_its_time(self, processes: ProcessHarness) -> None:
        """Stop sends SIGTERM first."""
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
            assert len(living) == 2
            processes.kill(machine.vm)
            await machine.vm.wait()
            await processes.driver.destroy(machine.bundle)
            assert processes.rests(machine.bundle) == []


class TestProbe:
    async def test_probe_says_what_holds_the_agents_here(self) -> None:
        """The agent raises its walls as a machine's would; nothing of the trial is left."""
        driver = ProcessDriver()
        health = await driver.probe()
        assert health.ok
        own = os.geteuid() == 0 and users_exist()
        assert f"as {'a user of its own' if own else 'the user of the node'}" in health.reason
        lacking = "this host has no" in health.reason
        assert lacking is not ("behind seccomp and Landlock" in health.reason)
        assert (health.hint is not None) is ("no Landlock" in health.reason)

    async def test_probe_when_no_user_can_be_become_goes_without_and_says_so(
        self, tmp_path: Path
    ) -> None:
        """As in a container whose root may not change its user."""
        health = await _probed(
            tmp_path,
            'case "$*" in *--uid*) echo not permitted; exit 2;; esac',
            """echo '{"missing_walls": ["Landlock for TCP"]}'""",
        )
        assert health.ok
        told = "behind seccomp and Landlock, as the user of the node; this host has no Landlock"
        assert told in health.reason
        if os.geteuid() == 0:
            assert ", no user of its own" in health.reason

    def test_walls_that_are_missing_are_known_before_a_machine_has_an_application(self) -> None:
        """A listing of an empty machine says so too; of an agent nobody asked, the worst."""
        assert ProcessDriver(["agent"]).capabilities.missing_walls == ("seccomp", "Landlock")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("echo plexspaces-agent: no such wall; exit 2", "no such wall"),
            ("exit 3", "status 3"),
            ("kill -SEGV $$", "status -11"),
            ("echo hello", "it printed 'hello' instead of its walls"),
            ("echo '{}'", "instead of its walls"),
        ],
    )
    async def test_probe_of_an_agent_that_fails_says_its_words(
        self, tmp_path: Path, line: str, words: str
    ) -> None:
        """A level whose agent does not run is not offered."""
        health = await _probed(tmp_path, line)
        assert not health.ok
        assert words in health.reason
        assert health.hint

    async def test_probe_without_an_agent_is_not_ok_and_start_says_so(self, root: Path) -> None:
        """A program that is not there is told before a machine is made of it."""

        def not_built() -> Path:
            raise NotFound("plexspaces-agent is not built", hint="scripts/agent")

        driver = ProcessDriver(find_agent=not_built)
        health = await driver.probe()
        assert (health.ok, health.hint) == (False, "scripts/agent")
        bundle = Bundle.create(root, "vm-none", SMALL)
        with pytest.raises(VmStartFailed, match="is not built") as failed:
            await driver.start(SMALL, bundle)
        assert (failed.value.step, failed.value.hint) == ("validate", "scripts/agent")
        await driver.destroy(bundle)


class TestHandle:
    @pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}, {"pid": 1}])
    async def test_handle_of_a_reused_pid_names_nobody(
        self, processes: ProcessHarness, change: dict[str, Any]
    ) -> None:
        """A pid that now means another process is not killed."""
        async with processes.machine() as machine:
            state = {**machine.vm.handle.state, **change}
            stale = type(machine.vm.handle)("process", HANDLE_VERSION, "vm-stale", state)
            bundle = Bundle.create(processes.root, "vm-stale", SMALL)
            bundle.write_handle(stale)
            await processes.restarted().destroy(bundle)
            assert (await machine.vm.stats()).rss_bytes > 0


async def _probed(directory: Path, *lines: str) -> Health:
    program = directory / "agent"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)
    return await ProcessDriver(find_agent=lambda: program).probe()


@asynccontextmanager
async def _agent(processes: ProcessHarness) -> AsyncIterator[ProcessVm]:
    """Start a machine with the agent itself, which has said hello and been told nothing yet."""
    driver, bundle = ProcessDriver(), processes.bundle()
    async with AsyncExitStack() as undo:
        undo.push_async_callback(driver.destroy, bundle)
        vm, link = await processes._linked(driver, bundle, undo)
        undo.callback(link.writer.close)
        assert (await link.hello()).vm_id == bundle.vm_id
        assert isinstance(vm, ProcessVm)
        yield vm
    assert processes.rests(bundle) == []


def _status(vm: ProcessVm) -> dict[str, str]:
    lines = Path(f"/proc/{vm.process.identity.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _limits(vm: ProcessVm) -> dict[str, tuple[str, str]]:
    lines = Path(f"/proc/{vm.process.identity.pid}/limits").read_text().splitlines()[1:]
    fields = (re.split(r"\s{2,}", line) for line in lines)
    return {name: (soft, hard) for name, soft, hard, *_ in fields}


async def _facts(processes: ProcessHarness) -> dict[str, Any]:
    async with processes.machine() as machine:
        machine.link.say("facts")
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
