"""A cluster under load while its nodes are killed, cut off, paused and filled up, at random.

    make cluster-faults ARGS="--cluster-seconds=600 --cluster-seed=7"

runs it for longer, or again with the faults of a seed. What clients saw is checked afterwards.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest
from support.cluster.cluster import NAMES, Cluster, cluster
from support.cluster.faults import Faults, schedule
from support.cluster.history import (
    Read,
    availability,
    faults_of_deploys,
    faults_of_keys,
    faults_of_lives,
    lost_keys,
)
from support.cluster.load import Load
from support.cluster.look import buckets
from support.patience import patient

from plexspaces_node.client import DeployOptions

pytestmark = pytest.mark.usefixtures("own_network")

ACTORS = ["counter", "ledger", "cart"]
DISK_MIB = 400


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


async def test_cluster_when_faults_come_at_random_then_nothing_acknowledged_is_lost(
    pytestconfig: pytest.Config, tmp_path: Path, probe_wasm: Path
) -> None:
    """No deploy, no key; reads never go back, and no actor has two owners at once.

    All nodes agree at the end, and nothing is left.
    """
    seed = pytestconfig.getoption("--cluster-seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    seconds = pytestconfig.getoption("--cluster-seconds")
    count = 3 + seed % 3
    say(f"{count} nodes: --cluster-seed={seed} --cluster-seconds={seconds}")
    disks = dict.fromkeys(NAMES[:count], DISK_MIB)
    async with cluster(tmp_path, count, disk_mib=disks) as running:
        await running.agrees()
        async with running.nodes[0].client() as client:
            for name in ACTORS:
                await client.deploy(name, probe_wasm, options=DeployOptions(memory_mib=64))
        load = Load(running.nodes, ACTORS, seed=seed)
        load.begin(wasm=probe_wasm)
        try:
            faults = Faults(running, say)
            for fault in schedule(seed, [node.id for node in running.nodes], seconds):
                await faults.make(fault)
            await running.restart()
            await running.agrees(*ACTORS)
        except BaseException:
            await load.abort()
            raise
        await load.end()
        say(f"{load}, longest time without an acknowledged write {_gap_s(load):.1f} s")
        await _check(running, load)
        await _check_nothing_is_left(running)


def _gap_s(load: Load) -> float:
    writes = load.history.writes
    begin_s, end_s = writes[0].begin_s, max(one.begin_s for one in writes)
    return availability((one.end_s for one in writes), begin_s, end_s)


async def _check(running: Cluster, load: Load) -> None:
    history = load.history
    assert history.outcomes["ok"] > 100
    last: list[Read] = []
    for node in running.nodes:
        last += await load.read_all(node)
    assert faults_of_keys(history.writes, [*history.reads, *last]) == []
    assert lost_keys(history.writes, last) == []
    assert {one.actor for one in history.served} == set(ACTORS)
    assert faults_of_lives(history.served) == []
    assert history.outcomes["deploy ok"] > 0
    for node in running.nodes:
        async with node.client() as client:
            there = {one.name for one in (await client.list()).applications}
        assert faults_of_deploys(history.deploys, there - set(ACTORS)) == [], node


async def _check_nothing_is_left(running: Cluster) -> None:
    """Remove every application, then stop every node."""
    async with running.nodes[0].client() as client:
        for one in (await client.list()).applications:
            await client.undeploy(one.name)
    async with asyncio.timeout(patient(60)):
        for node in running.nodes:
            # Of each host there are its node and its NATS server, and no application.
            while len(node.processes()) > 2 or list((node.data_dir / "vms").iterdir()):
                await asyncio.sleep(0.1)
        while left := (await buckets(running.nodes[0])).of_applications():
            running.last_disagreement = f"left in the buckets: {left}"
            await asyncio.sleep(0.5)
    for node in running.nodes:
        assert await node.stop() == 0, node.log_tail()
    async with asyncio.timeout(patient(30)):
        for node in running.nodes:
            while node.processes():
                await asyncio.sleep(0.1)
