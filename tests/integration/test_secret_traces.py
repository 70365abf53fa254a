"""A known secret is looked for wherever a node, its VMs and its commands leave something."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from support.actors import system
from support.nodes import reached
from support.patience import patient
from support.traces import (
    agents_of,
    ended,
    memories_with,
    processes_with,
    traces_of,
)

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorTrapped, PlexSpacesError
from plexspaces_node.programs import cache_home
from plexspaces_node.vm.image import default_directory

COMMAND = (sys.executable, "-m", "plexspaces_node.cli.main")
USES = DeployOptions(memory_mib=128, secrets={"DB_URL": "db", "AGAIN": "db"})


def command(
    *arguments: str | Path, home: Path, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a user does; what it writes is kept beside everything else."""
    ran = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=given,
        capture_output=True,
        env=environment(home),
        cwd=home,
        timeout=patient(60),
        check=False,
    )
    with (home / "commands.log").open("ab") as file:
        file.write(ran.stdout + ran.stderr)
    return ran


def environment(home: Path) -> dict[str, str]:
    """This machine's settings for images, and nothing else of its user's."""
    others = ("PLEXSPACES_NODE", "PLEXSPACES_SECRETS", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    image = default_directory(os.environ)
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(cache_home()),
        "PLEXSPACES_GUEST_KERNEL_PATH": str(image / "vmlinux"),
        "PLEXSPACES_GUEST_ROOTFS_PATH": str(image / "rootfs.erofs"),
    }


@asynccontextmanager
async def running(home: Path, level: str) -> AsyncIterator[tuple[int, str, str]]:
    """Run `start-node`, which tells everything; yields its pid and its two addresses."""
    config = home / "release.toml"
    config.write_text(
        f'[node]\nid = "n-1"\naddress = "127.0.0.1:0"\ndata_dir = "{home}/data"\n'
        f'isolation = "{level}"\nlog_level = "debug"\n[http]\naddress = "127.0.0.1:0"\n'
        "access_log = true\n"
    )
    log = home / f"node-{secrets.token_hex(4)}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [*COMMAND, "start-node", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(home),
            cwd=home,
        ) as node,
    ):
        try:
            async with asyncio.timeout(patient(120)):
                while (
                    said := re.search(
                        r"Address: +(\S+)\n(?:.*\n)*? +HTTP: +http://(\S+)", log.read_text()
                    )
                ) is None:
                    assert node.poll() is None, log.read_text()
                    await asyncio.sleep(0.02)
            yield node.pid, said[1], said[2]
        finally:
            if node.poll() is None:
                node.terminate()
                node.wait(patient(60))


def set_by_http(address: str, body: dict[str, object]) -> int:
    """Set the secret over HTTP; return the status."""
    request = Request(
        f"http://{address}/v1/secrets/db",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urlopen(request) as reply:
            return int(reply.status)
    except HTTPError as error:
        return error.code


async def use(client: NodeClient, name: str, value: bytes) -> None:
    """Have the application read its secret, and end in an error."""
    assert b"DB_URL=" + value in (await client.invoke(name, type="e")).payload
    with pytest.raises(ActorTrapped):
        await client.invoke(name, type="x")


async def make_errors(client: NodeClient, http: str, home: Path, value: bytes) -> None:
    """Give the value where it does not belong, in every way that is refused."""
    flag = ("--node-address", client.address)
    for wrong in (value + b"\0", value + b"\xff", value * 4096):
        assert command("secret", "set", "db", *flag, home=home, given=wrong).returncode != 0
    # Refused by the node, which the command does not ask.
    with pytest.raises(PlexSpacesError):
        await client.set_secret("db", value + b"\0")
    bodies: tuple[dict[str, object], ...] = (
        {"value": value.decode() + "!"},
        {"value": "AAAA", "name": 3, "x": value.decode()},
    )
    for body in bodies:
        assert await asyncio.to_thread(set_by_http, http, body) == 400
    assert command("secret", "set", "a/b", *flag, home=home, given=value).returncode != 0
    assert command("deploy", home / "x.wasm", "--secret", "A", *flag, home=home).returncode != 0


@pytest.mark.parametrize("level", ["process", "qemu", "firecracker"])
async def test_secret_when_used_in_every_way_then_it_is_nowhere(
    request: pytest.FixtureRequest, data_dir: Path, level: str
) -> None:
    """Not in data directory, logs, audit log, core files, arguments or environments, or a template.

    In clear, in hex or in base64; through errors, crashes of VM and node, a restart and a backup.
    """
    if level not in request.config.getoption("--drivers").split(","):
        pytest.skip(f"boots machines: name it with --drivers={level}")
    home = data_dir.parent
    value, second = (f"s3cret-{secrets.token_hex(16)}".encode() for _ in range(2))
    (home / "x.wasm").write_bytes(system())
    # The search finds what it is for.
    for written in (value, value.hex().encode(), base64.b64encode(b"a:" + value + b"\n")):
        with (home / "control").open("wb") as control:
            control.seek(8 << 30)
            control.write(b"x" + written + b"x")
        assert len(traces_of(value, home)) == 1
    (home / "control").unlink()

    async def nowhere(pid: int) -> None:
        for known in (value, second):
            assert await asyncio.to_thread(traces_of, known, home) == []
            assert processes_with(known) == []
            assert await asyncio.to_thread(memories_with, known, pid) == []

    async with running(home, level) as (pid, address, http), NodeClient(address) as client:
        flag = ("--node-address", address)
        assert command("secret", "set", "db", *flag, home=home, given=value).returncode == 0
        for name in ("one", "two"):
            await client.deploy(name, home / "x.wasm", options=USES)
            await use(client, name, value)
        await make_errors(client, http, home, value)
        await nowhere(pid)
        done = await client.set_secret("db", second, restart=True)
        assert done.restarted == {"one": "", "two": ""}
        await use(client, "one", second)
        for crash in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL):
            os.kill(agents_of(home / "data")[0], crash)
            async with asyncio.timeout(patient(60)):
                while len(agents_of(home / "data")) < 2:
                    await asyncio.sleep(0.01)
        for name in ("one", "two"):
            await reached(client, name)
            await client.stop(name)
            await client.start(name)
            await use(client, name, second)
        assert command("secret", "list", *flag, home=home).returncode == 0
        assert command("audit", "--json", *flag, home=home).returncode == 0
        backup = ("backup", home / "backup.tar", "--data-dir", home / "data")
        assert command(*backup, home=home).returncode == 0
        await nowhere(pid)
        for each in (pid, *agents_of(home / "data")):
            assert re.search(
                r"Max core file size +0 +0 ", Path(f"/proc/{each}/limits").read_text()
            ), each
        os.kill(pid, signal.SIGABRT)
    if level == "process":
        # Others outlive their node, and are ended by the next one.
        await ended(home / "data")
    async with running(home, level) as (pid, address, _), NodeClient(address) as client:
        await reached(client, "one")
        await use(client, "one", second)
        await nowhere(pid)
    assert not [path for path in home.rglob("*") if path.name.startswith("core")]
    audit = (home / "data" / "audit" / "audit.jsonl").read_text()
    assert audit.count("SecretService/SetSecret") >= 2
