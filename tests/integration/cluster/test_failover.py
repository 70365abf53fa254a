"""Nodes that die, are cut off and are upgraded: what becomes of the applications they ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from support.actors import http_component, keyed
from support.cluster.cluster import RUNNING, Cluster, cluster
from support.cluster.history import Owned, Served, faults_of_owners
from support.cluster.node import ClusterNode
from support.cluster.sending import NoAnswerError, NotSentError, Sender
from support.patience import patient

from plexspaces_node.client import DeployOptions

pytestmark = pytest.mark.usefixtures("own_network")


@asynccontextmanager
async def three(directory: Path, wasm: Path, *, count: int = 3) -> AsyncIterator[Cluster]:
    """A cluster with the actor `counter` and the HTTP component `page`, which has two replicas."""
    async with cluster(directory, count) as running:
        await running.agrees()
        page = directory / "page.wasm"
        page.write_bytes(http_component())
        async with running.nodes[0].client() as client:
            await client.deploy("counter", wasm, options=DeployOptions(memory_mib=64))
            await client.deploy("page", page, options=DeployOptions(memory_mib=64, replicas=2))
        await running.agrees("counter", "page")
        yield running


async def nodes_of(running: Cluster, name: str, ask: ClusterNode) -> list[ClusterNode]:
    """Return the nodes on which an application runs, as one of them says."""
    async with ask.client() as client:
        (found,) = [one for one in (await client.list()).applications if one.name == name]
    return [running[one.node] for one in found.nodes if one.state == RUNNING]


async def told(node: ClusterNode, name: str, msg_type: str, payload: bytes = b"") -> bytes:
    """Send a message to a node until it is answered, and return the reply."""
    sender = Sender(node)
    try:
        async with asyncio.timeout(patient(60)):
            while True:
                try:
                    answer = await sender.send(name, msg_type, payload)
                    if answer.status == 200:
                        return answer.body
                except (NotSentError, NoAnswerError):
                    pass
                await asyncio.sleep(0.05)
    finally:
        sender.close()


def number(reply: bytes) -> int:
    return int.from_bytes(reply, "little")


async def test_actor_when_its_node_dies_then_it_answers_elsewhere_with_its_keys_and_state(
    tmp_path: Path, probe_wasm: Path
) -> None:
    """Every key that was acknowledged, and the last snapshot; the former node gets nothing back."""
    async with three(tmp_path, probe_wasm) as running:
        (owner,) = await nodes_of(running, "counter", running.nodes[0])
        for at in range(20):
            await told(running.nodes[0], "counter", "u", keyed(f"k{at}", b"v%d" % at))
            await told(running.nodes[0], "counter", "c")
        # So that there is a snapshot.
        await asyncio.sleep(1.0)
        owner.crash()
        other, _ = running.others(owner)
        for at in range(20):
            assert await told(other, "counter", "g", b"k%d" % at) == b"v%d" % at
        assert number(await told(other, "counter", "c")) == 21
        (successor,) = await nodes_of(running, "counter", other)
        assert successor is not owner
        await running.restart()
        await running.agrees("counter", "page")
        assert await nodes_of(running, "counter", owner) == [successor]
        assert number(await told(owner, "counter", "c")) == 22


async def test_component_when_one_of_its_nodes_dies_then_it_answers_on_and_gets_another(
    tmp_path: Path, probe_wasm: Path
) -> None:
    """A node that runs it answers throughout; soon there are two again."""
    async with three(tmp_path, probe_wasm) as running:
        dying, staying = await nodes_of(running, "page", running.nodes[0])
        dying.crash()
        sender = Sender(staying)
        async with asyncio.timeout(patient(60)):
            while dying in (now := await nodes_of(running, "page", staying)) or len(now) < 2:
                assert (await sender.send("page", "e")).status == 200
                await asyncio.sleep(0.05)
        sender.close()
        assert await told(now[0], "page", "e") == b"hello"
        assert await told(now[1], "page", "e") == b"hello"


@pytest.mark.parametrize(("count", "cut"), [(3, 1), (4, 2)])
async def test_actor_when_its_nodes_are_cut_off_then_they_stop_before_others_begin(
    tmp_path: Path, probe_wasm: Path, count: int, cut: int
) -> None:
    """No reply on one side was asked for after the first one of the other; all agree afterwards.

    Of four nodes two are no majority: neither side goes on, until both are together again.
    """
    async with three(tmp_path, probe_wasm, count=count) as running:
        (owner,) = await nodes_of(running, "counter", running.nodes[0])
        await told(owner, "counter", "c")
        with_owner = [owner, *running.others(owner)[: cut - 1]]
        others = running.others(*with_owner)
        running.cut_off(*with_owner)
        served: list[Served] = []
        written: dict[str, int] = {"with its owner": 0, "others": 0}
        # By key: the side on which it was acknowledged.
        kept: dict[str, str] = {}
        ends = asyncio.Event()

        async def ask(node: ClusterNode, side: str) -> None:
            sender = Sender(node)
            while not ends.is_set():
                begin_s = monotonic()
                try:
                    answer = await sender.send("counter", "u", keyed(node.id, side.encode()))
                except (NotSentError, NoAnswerError):
                    continue
                if answer.status == 200:
                    served.append(Served("counter", side, begin_s, monotonic()))
                    written[side] += 1
                    kept[node.id] = side
                await asyncio.sleep(0.005)
            sender.close()

        # Nothing passes between the two sides, so each reply is of the side on which it was asked.
        asking = [asyncio.ensure_future(ask(node, "with its owner")) for node in with_owner]
        asking += [asyncio.ensure_future(ask(node, "others")) for node in others]
        begin_s = monotonic()
        async with asyncio.timeout(patient(90)):
            # Until the majority goes on for so long that the other side would have begun too.
            most = 500 if 2 * cut < count else 0
            while written["others"] < most or monotonic() - begin_s < 20:
                await asyncio.sleep(0.05)
        ends.set()
        await asyncio.gather(*asking)
        epochs = [Owned("counter", 1, "with its owner"), Owned("counter", 2, "others")]
        assert faults_of_owners(served, epochs) == []
        running.heal()
        await running.agrees("counter", "page")
        for one in running.nodes:
            for key, side in kept.items():
                assert await told(one, "counter", "g", key.encode()) == side.encode()


async def test_nodes_when_upgraded_one_after_the_other_then_no_message_fails(
    tmp_path: Path, probe_wasm: Path
) -> None:
    """Drained, stopped, started and given applications again, while clients use the others."""
    async with three(tmp_path, probe_wasm) as running:
        usable = set(running.nodes)
        failed: list[str] = []
        sent = 0
        ends = asyncio.Event()

        async def ask(name: str, msg_type: str) -> None:
            nonlocal sent
            senders = {node: Sender(node) for node in running.nodes}
            while not ends.is_set():
                for node in running.nodes:
                    if node not in usable:
                        senders[node].close()
                        continue
                    try:
                        answer = await senders[node].send(name, msg_type)
                    except (NotSentError, NoAnswerError) as error:
                        failed.append(f"{node.id}, {name}: {error!r}")
                    else:
                        sent += 1
                        if answer.status != 200:
                            failed.append(f"{node.id}, {name}: {answer.status} {answer.body!r}")
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0)
            for sender in senders.values():
                sender.close()

        before = number(await told(running.nodes[0], "counter", "c"))
        asking = [asyncio.ensure_future(ask("page", "e")) for _ in range(4)]
        try:
            for node in running.nodes:
                async with running.others(node)[0].client() as client:
                    async for _ in client.drain_node(node.id, timeout_s=patient(60)):
                        pass
                usable.discard(node)
                # What its clients have sent is still answered.
                assert await node.stop() == 0
                node.start()
                await node.serving()
                usable.add(node)
                async with node.client() as client:
                    await client.undrain_node(node.id)
                await running.agrees("counter", "page")
        finally:
            ends.set()
            await asyncio.gather(*asking)
        assert failed == []
        assert sent > 100
        assert number(await told(running.nodes[0], "counter", "c")) == before + 1


async def test_cluster_when_all_nodes_are_killed_then_it_is_back_without_a_flag(
    tmp_path: Path, probe_wasm: Path
) -> None:
    """What a node needs to come back is in its data directory."""
    async with three(tmp_path, probe_wasm) as running:
        await told(running.nodes[0], "counter", "u", keyed("k", b"kept"))
        for node in running.nodes:
            node.crash()
        await running.restart()
        await running.agrees("counter", "page")
        for node in running.nodes:
            assert await told(node, "counter", "g", b"k") == b"kept"
