"""Secrets of a real node: what an application gets, when, and what happens without the key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.actors import system
from support.nodes import builder, reached
from support.patience import patient
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import InvalidArgument, NotFound, WrongState
from plexspaces_node.model import ApplicationState

USES = DeployOptions(env={"GREETING": "hello"}, secrets={"DB_URL": "db"})


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An actor that answers `e` with its environment."""
    path = tmp_path_factory.mktemp("wasm") / "system.wasm"
    path.write_bytes(system())
    return path


async def environment(client: NodeClient, name: str = "one") -> dict[str, str]:
    """Return the variables that an application has."""
    block = (await client.invoke(name, type="e")).payload.decode()
    pairs = (one.split("=", 1) for one in block.split("\0") if one)
    platform = ("PLEXSPACES_", "GOMEMLIMIT")
    return {name: value for name, value in pairs if not name.startswith(platform)}


def keys(data_dir: Path) -> Path:
    """Where the node of these tests has its key."""
    return Path(f"{data_dir}.key")


class TestDeploy:
    async def test_deploy_when_it_names_a_secret_then_it_is_a_variable(
        self, client: NodeClient, data_dir: Path, wasm: Path
    ) -> None:
        """The row has the name alone; the key is made with the first secret, and elsewhere."""
        assert not keys(data_dir).exists()
        done = await client.set_secret("db", b"postgres://one")
        assert (done.version, done.restarted) == (1, {})
        await client.deploy("one", wasm, options=USES)
        assert await environment(client) == {"GREETING": "hello", "DB_URL": "postgres://one"}
        [secret] = await client.list_secrets()
        assert (secret.tenant, secret.name, secret.version) == ("default", "db", 1)
        assert secret.used_by == ("one",)
        with closing(sqlite3.connect(data_dir / "registry.db")) as opened:
            [row] = opened.execute("SELECT env, secrets FROM applications").fetchall()
        assert [json.loads(text) for text in row] == [USES.env, USES.secrets]
        assert keys(data_dir).stat().st_mode & 0o777 == 0o600

    async def test_deploy_when_the_secret_is_missing_then_refused_and_nothing_is_left(
        self, client: NodeClient, data_dir: Path, wasm: Path
    ) -> None:
        """Also where another tenant has one of that name."""
        await client.set_secret("db", b"x", tenant="shop")
        with pytest.raises(NotFound, match="no secret 'db' in tenant 'default'"):
            await client.deploy("one", wasm, options=USES)
        assert (await client.list()).applications == ()
        assert_nothing_left(data_dir)

    async def test_deploy_when_a_name_is_given_twice_then_refused(
        self, client: NodeClient, wasm: Path
    ) -> None:
        """Before anything is sent."""
        wish = DeployOptions(env={"A": "1"}, secrets={"A": "db"})
        with pytest.raises(InvalidArgument, match="a value and a secret"):
            await client.deploy("one", wasm, options=wish)

    async def test_replace_when_its_secret_is_missing_then_the_running_one_is_not_stopped(
        self, client: NodeClient, wasm: Path
    ) -> None:
        """It keeps its secrets as it keeps its variables, and those are looked for first."""
        await client.set_secret("db", b"1")
        before = await client.deploy("one", wasm, options=USES)
        wish = DeployOptions(replace=True, secrets={"OTHER": "other"})
        with pytest.raises(NotFound):
            await client.deploy("one", wasm, options=wish)
        after = await client.inspect("one")
        assert (after.vm and after.vm.id) == (before.vm and before.vm.id)
        await client.deploy("one", wasm, options=DeployOptions(replace=True))
        assert (await environment(client))["DB_URL"] == "1"
        await client.deploy("one", wasm, options=DeployOptions(replace=True, env={"DB_URL": "2"}))
        assert await environment(client) == {"DB_URL": "2"}
        await client.deploy("one", wasm, options=DeployOptions(replace=True, secrets={"A": "db"}))
        await client.deploy("one", wasm, options=DeployOptions(replace=True, no_secrets=True))
        assert await environment(client) == {"DB_URL": "2"}
        assert await client.delete_secret("db") == ()


class TestChange:
    async def test_set_when_it_changes_then_the_next_start_gets_it(
        self, client: NodeClient, data_dir: Path, wasm: Path
    ) -> None:
        """After a stop and start, and after a crash."""
        await client.set_secret("db", b"1")
        await client.deploy("one", wasm, options=USES)
        assert (await client.set_secret("db", b"2")).version == 2
        assert (await environment(client))["DB_URL"] == "1"
        await client.stop("one")
        await client.start("one")
        assert (await environment(client))["DB_URL"] == "2"
        await client.set_secret("db", b"3")
        os.kill(agents_of(data_dir)[0], signal.SIGKILL)
        async with asyncio.timeout(patient(20)):
            while (await client.inspect("one")).restarts == 0:
                await asyncio.sleep(0.01)
        assert (await environment(client))["DB_URL"] == "3"

    async def test_set_when_it_restarts_then_those_that_use_it_and_no_message_is_lost(
        self, client: NodeClient, wasm: Path
    ) -> None:
        """Those that do not use it, are stopped, or are another tenant's stay as they are."""
        await client.set_secret("db", b"1")
        await client.set_secret("other", b"1")
        for name in ("one", "two", "stopped"):
            await client.deploy(name, wasm, options=USES)
        await client.deploy("bystander", wasm, options=DeployOptions(secrets={"DB_URL": "other"}))
        await client.stop("stopped")
        before = await client.inspect("bystander")
        seen: list[str] = []
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                seen.append((await environment(client))["DB_URL"])

        asking = asyncio.create_task(ask())
        result = await client.set_secret("db", b"2", restart=True)
        done.set()
        await asking
        assert result.restarted == {"one": "", "two": ""}
        assert set(seen) <= {"1", "2"}
        assert (await environment(client, "two"))["DB_URL"] == "2"
        after = await client.inspect("bystander")
        assert (after.vm and after.vm.id) == (before.vm and before.vm.id)
        assert (await client.inspect("stopped")).state is ApplicationState.STOPPED

    async def test_delete_when_it_is_used_then_refused_unless_forced(
        self, client: NodeClient, wasm: Path
    ) -> None:
        """Forced, the application runs on, and does not start again: its error says why."""
        await client.set_secret("db", b"1")
        await client.deploy("one", wasm, options=USES)
        with pytest.raises(WrongState, match="used by one"):
            await client.delete_secret("db")
        assert await client.delete_secret("db", force=True) == ("one",)
        assert (await environment(client))["DB_URL"] == "1"
        await client.stop("one")
        with pytest.raises(WrongState, match="no secret 'db'"):
            await client.start("one")
        info = await client.inspect("one")
        assert info.state is ApplicationState.FAILED
        assert "no secret 'db'" in info.last_error
        await client.set_secret("db", b"4", restart=True)
        assert (await environment(client))["DB_URL"] == "4"
        with pytest.raises(NotFound):
            await client.delete_secret("nothing")


class TestKey:
    async def test_node_when_its_key_is_missing_then_only_what_needs_it_is_failed(
        self, data_dir: Path, wasm: Path
    ) -> None:
        """It says why, everything else runs, and with the key back a start is enough."""
        async with builder(data_dir).build() as node, NodeClient(node.address) as client:
            await client.set_secret("db", b"1")
            await client.deploy("one", wasm, options=USES)
            await client.deploy("two", wasm)
        away = keys(data_dir).rename(keys(data_dir).with_suffix(".away"))
        async with builder(data_dir).build() as node, NodeClient(node.address) as client:
            await reached(client, "two")
            failed = await reached(client, "one", ApplicationState.FAILED)
            assert failed.restarts == 0
            assert str(keys(data_dir)) in failed.last_error
            with pytest.raises(WrongState, match="is not in"):
                await client.set_secret("db", b"2")
            assert not keys(data_dir).exists()
            away.rename(keys(data_dir))
            await client.start("one")
            assert (await environment(client))["DB_URL"] == "1"

    async def test_node_when_it_has_a_passphrase_then_it_needs_it_again(
        self, data_dir: Path, wasm: Path
    ) -> None:
        """No key is anywhere: without it the node runs, with another one it does not."""
        with_words = builder(data_dir).with_passphrase("many words")
        async with with_words.build() as node, NodeClient(node.address) as client:
            await client.set_secret("db", b"1")
            await client.deploy("one", wasm, options=USES)
        assert not keys(data_dir).exists()
        without = builder(data_dir).with_setting("secrets.passphrase", True)
        async with without.build() as node, NodeClient(node.address) as client:
            failed = await reached(client, "one", ApplicationState.FAILED)
            assert "passphrase" in failed.last_error
        with pytest.raises(InvalidArgument, match="not the passphrase"):
            async with builder(data_dir).with_passphrase("other words").build():
                pass
        with_words = builder(data_dir).with_passphrase("many words")
        async with with_words.build() as node, NodeClient(node.address) as client:
            # It was Failed, not stopped: it is to run.
            await reached(client, "one")
            assert (await environment(client))["DB_URL"] == "1"


class TestAudit:
    async def test_audit_when_secrets_are_set_and_listed_then_lines_without_values(
        self, client: NodeClient
    ) -> None:
        """Who, what and on what; a tenant's reader sees its own alone."""
        await client.set_secret("db", b"do-not-log-me", tenant="shop")
        await client.set_secret("key", b"do-not-log-me")
        await client.list_secrets(tenant="shop")
        with pytest.raises(NotFound):
            await client.delete_secret("nothing", tenant="shop")
        entries = [entry async for entry in client.read_audit()]
        told = [(one.verb.partition("/")[2], one.object, one.tenant, one.result) for one in entries]
        assert told == [
            ("Start", "node-test", "", "ok"),
            ("SetSecret", "db", "shop", "ok"),
            ("SetSecret", "key", "default", "ok"),
            ("ListSecrets", "", "shop", "ok"),
            ("DeleteSecret", "nothing", "shop", "not_found"),
        ]
        assert "do-not-log-me" not in repr(entries)
        [last] = [entry async for entry in client.read_audit(tenant="shop", tail=1)]
        assert (last.verb, last.kind, last.address) == (
            "SecretService/DeleteSecret",
            "local",
            "unix",
        )
