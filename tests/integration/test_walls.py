"""What holds an application at process isolation, seen from outside its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.nodes import reached
from support.patience import patient

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.node.node import Node
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.users import uid_of, users_exist

AS_ROOT = os.geteuid() == 0 and users_exist()
needs_root = pytest.mark.skipif(not AS_ROOT, reason="machines have a user of their own under root")

INTRUDER = """
import json, os, socket, sys
from pathlib import Path
uid, data, other_pid, node_pid, other = sys.argv[1:]
os.setgroups([])
os.setresgid(*[int(uid)] * 3)
os.setresuid(*[int(uid)] * 3)
def tried(act):
    try:
        return repr(act())
    except OSError as error:
        return type(error).__name__
attempts = {
    "the registry": lambda: Path(data, "registry.db").read_bytes(),
    "the code of all": lambda: os.listdir(Path(data, "cache")),
    "its own directory": lambda: os.listdir("."),
    "its own handle": lambda: Path("handle.json").read_bytes(),
    "its own log": lambda: Path("console.log").open("a"),
    "its artifact, to write": lambda: Path("artifact.cwasm").open("r+b"),
    "a new file": lambda: Path("new").touch(),
    "its link": lambda: socket.socket(socket.AF_UNIX).connect("link.sock"),
    "the link of another": lambda: socket.socket(socket.AF_UNIX).connect(f"{other}/link.sock"),
    "the memory of another": lambda: open(f"/proc/{other_pid}/mem", "rb"),
    "the environment of another": lambda: Path(f"/proc/{other_pid}/environ").read_bytes(),
    "another's end": lambda: os.kill(int(other_pid), 0),
    "the node's end": lambda: os.kill(int(node_pid), 0),
    "the host's passwords": lambda: Path("/etc/shadow").read_bytes(),
}
told = {what: tried(act) for what, act in attempts.items()}
told["its artifact"] = str(len(Path("artifact.cwasm").read_bytes()))
print(json.dumps(told))
"""
"""Does as the machine's user what a hole in WebAssembly and in both walls would let it do."""


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _machine_of(client: NodeClient, data_dir: Path, name: str) -> tuple[Bundle, int]:
    found = await client.inspect(name)
    assert found.vm is not None
    bundle = Bundle.open(data_dir / "vms" / found.vm.id)
    handle = bundle.read_handle()
    assert handle is not None
    return bundle, int(handle.state["pid"])


async def test_application_computes_behind_all_the_walls_that_the_note_claims(
    node: Node, client: NodeClient, data_dir: Path, probe_wasm: Path
) -> None:
    """After a deploy and after a crash alike: the filter, no privileges, a user of its own."""
    await client.deploy("one", probe_wasm)
    for _ in range(2):
        before = (await client.inspect("one")).restarts
        bundle, pid = await _machine_of(client, data_dir, "one")
        status = _status(pid)
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        filtered = "behind seccomp" in node.isolation_note
        assert filtered or "this host has no seccomp" in node.isolation_note
        assert (status["Seccomp"] == "2") is filtered
        # Of every thread, those that the runtime started before the filter came too.
        tasks = Path(f"/proc/{pid}/task").iterdir()
        for thread in [_status(int(task.name)) for task in tasks]:
            assert thread["Seccomp"] == status["Seccomp"]
            assert thread["Uid"] == status["Uid"]
        own = str(uid_of(bundle)) if AS_ROOT else str(os.geteuid())
        assert status["Uid"].split() == [own] * 4
        assert ("as a user of its own" in node.isolation_note) is AS_ROOT
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(patient(30)):
            while (await client.inspect("one")).restarts == before:
                await asyncio.sleep(0.01)
        await reached(client, "one")


@needs_root
async def test_intruder_with_the_rights_of_a_machine_comes_to_nothing_but_its_artifact(
    client: NodeClient, data_dir: Path, probe_wasm: Path
) -> None:
    """Holes in runtime, filter and Landlock at once are no way to a neighbour or to root."""
    await client.deploy("one", probe_wasm)
    await client.deploy("two", probe_wasm, options=DeployOptions(env={"TOKEN": "secret-77"}))
    bundle, _ = await _machine_of(client, data_dir, "one")
    other, other_pid = await _machine_of(client, data_dir, "two")
    assert uid_of(bundle) != uid_of(other)
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "-I", "-c", INTRUDER),
            *map(str, (uid_of(bundle), data_dir, other_pid, os.getpid(), other.path)),
        ],
        cwd=bundle.path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    told = json.loads(done.stdout)
    assert int(told.pop("its artifact")) == bundle.artifact.stat().st_size
    assert set(told.values()) == {"PermissionError"}, told
