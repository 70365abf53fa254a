"""The commands with a node that has tokens: as its owner, as somebody else, and as nobody."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.nodes import builder
from support.patience import patient

from plexspaces_node.node.node import Node


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class User:
    """Somebody on this host: their own configuration, and a cache that tells them of no node."""

    def __init__(self, home: Path, node: Node, *, is_owner: bool = False) -> None:
        home.mkdir()
        self.home = home
        self.environment = {
            **{key: value for key, value in os.environ.items() if "PLEXSPACES" not in key},
            "XDG_CONFIG_HOME": str(home),
            "PLEXSPACES_NODE_ADDRESS": node.address,
        }
        if not is_owner:
            self.environment["XDG_CACHE_HOME"] = str(home / "cache")

    async def start(self, *arguments: str | Path, **environment: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "plexspaces_node.cli.main", *map(str, arguments)),
            env={**self.environment, **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str | Path, stdin: str = "", **environment: str) -> Done:
        process = await self.start(*arguments, **environment)
        async with asyncio.timeout(patient(60)):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    made = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with made.build() as node:
        yield node


@pytest.fixture
def owner(tmp_path: Path, node: Node) -> User:
    return User(tmp_path / "owner", node, is_owner=True)


@pytest.fixture
def other(tmp_path: Path, node: Node) -> User:
    return User(tmp_path / "other", node)


async def test_commands_when_with_a_token_then_they_do_what_it_allows(
    owner: User, other: User, probe_wasm: Path, tmp_path: Path
) -> None:
    """And by the socket, without one, everything; without either they say what helps."""
    made = await owner("token", "create", "--name", "ci", "--scope", "deploy", "--scope", "invoke")
    assert made.status == 0, made
    secret = made.out.strip()
    assert made.out == f"{secret}\n"
    assert secret not in made.err
    token = {"PLEXSPACES_TOKEN": secret}
    for command in (
        ("deploy", probe_wasm, "--name", "one"),
        ("list",),
        ("inspect", "one"),
        ("logs", "one"),
        ("vms", "list"),
        ("invoke", "one", "--type", "e", "--data", "hi"),
    ):
        refused = await other(*command)
        assert (refused.status, refused.out) == (1, ""), command
        assert refused.err.splitlines() == [
            "error: this node needs a token",
            "hint: plexspaces login, with a token made on the node's host: "
            "plexspaces token create --name NAME --scope SCOPE",
        ]
        done = await other(*command, **token)
        assert done.status == 0, done
        own = await owner(*command, *(("--replace",) if command[0] == "deploy" else ()))
        assert own.status == 0, own
    refused = await other("token", "list", **token)
    assert refused.status == 1
    assert "that needs the scope admin" in refused.err
    file = tmp_path / "token"
    file.write_text(secret)
    file.chmod(0o644)
    refused = await other("list", PLEXSPACES_TOKEN_FILE=str(file))
    assert (refused.status, refused.err.splitlines()[1]) == (2, f"hint: chmod 600 {file}")
    file.chmod(0o600)
    assert (await other("list", PLEXSPACES_TOKEN_FILE=str(file))).status == 0


async def test_login_when_the_token_is_right_then_it_is_kept_until_logout(
    owner: User, other: User
) -> None:
    """A wrong one is not; what is kept is not shown, nor are arguments taken for it."""
    secret = (await owner("token", "create", "--name", "ci", "--scope", "read")).out.strip()
    assert (await other("login", secret)).status == 2
    for wrong in ("", secret[:-1], secret[:20]):
        refused = await other("login", stdin=wrong)
        assert refused.status == 2
        assert wrong[4:20] not in refused.err or not wrong
    assert list(other.home.iterdir()) == []
    done = await other("login", stdin=f"{secret}\n")
    assert done.status == 0, done
    assert secret not in done.out + done.err
    who = json.loads((await other("whoami", "--json")).out)
    assert (who["kind"], who["name"], who["scopes"]) == ("token", "ci", ["read"])
    assert (await other("list")).status == 0
    rotated = (await owner("token", "rotate", "ci", "--grace", "10m")).out.strip()
    assert (await other("list")).status == 0
    assert (await other("list", PLEXSPACES_TOKEN=rotated)).status == 0
    assert (await owner("token", "revoke", "ci")).out == "✓ Revoked ci\n"
    refused = await other("list")
    assert (refused.status, refused.err.splitlines()[0]) == (
        1,
        "error: the token is not valid: unknown, revoked or expired",
    )
    assert (await other("logout")).status == 0
    assert "needs a token" in (await other("list")).err
    assert "nothing is kept" in (await other("logout")).out


async def test_logs_that_are_followed_when_the_token_is_revoked_then_the_command_ends(
    owner: User, other: User, probe_wasm: Path
) -> None:
    """With what happened, and without a trace of Python."""
    secret = (await owner("token", "create", "--name", "ci", "--scope", "read")).out.strip()
    assert (await owner("deploy", probe_wasm, "--name", "one")).status == 0
    following = await other.start("logs", "one", "-f", PLEXSPACES_TOKEN=secret)
    while not [
        each
        for each in json.loads((await owner("token", "list", "--json")).out)
        if each["last_used_unix_ns"]
    ]:
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    assert following.returncode is None
    assert (await owner("token", "revoke", "ci")).status == 0
    async with asyncio.timeout(patient(20)):
        _, err = await following.communicate()
    assert following.returncode == 1
    assert err.decode().startswith("error: the token is revoked or has expired since this began\n")


async def test_secret_when_searched_for_then_it_is_nowhere(
    owner: User, other: User, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the data directory, the node's logs, a list, or the arguments of a process."""
    caplog.set_level("DEBUG")
    secret = (await owner("token", "create", "--name", "ci", "--scope", "read")).out.strip()
    following = await other.start("audit", "-f", PLEXSPACES_TOKEN=secret)
    running = await other.start("whoami", PLEXSPACES_TOKEN=secret)
    arguments = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    assert secret.encode() not in arguments
    await running.communicate()
    for command in ("list", "whoami", "audit"):
        done = await other(command, PLEXSPACES_TOKEN=secret)
        assert secret[12:] not in done.out + done.err
    if following.returncode is None:
        following.send_signal(signal.SIGINT)
    await following.communicate()
    for listed in (await owner("token", "list"), await owner("audit")):
        assert secret[12:] not in listed.out + listed.err
        assert "ci" in listed.out
    assert secret[12:] not in caplog.text
    for path in data_dir.rglob("*"):
        if path.is_file():
            assert secret[12:].encode() not in path.read_bytes(), path


async def test_token_when_the_node_does_not_run_then_it_is_made_in_its_data_directory(
    tmp_path: Path, data_dir: Path, node: Node, owner: User
) -> None:
    """So that a node that may not start without one can be given one; not while it runs."""
    place = data_dir.parent / "stopped"
    stopped = {
        "PLEXSPACES_NODE_ADDRESS": "",
        "PLEXSPACES_NODE_DATA_DIR": str(place),
        # Without the notices of nodes that this user runs meanwhile.
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    made = await owner("token", "create", "--name", "ops", "--scope", "admin", **stopped)
    assert made.status == 0, made
    assert made.out.startswith("plx_")
    listed = await owner("token", "list", **stopped)
    assert "ops   *       admin" in listed.out
    del node
    shutil.rmtree(place)
