"""The advisor on a real node: workloads made to deserve an advice, and ones that deserve none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time_ns
from typing import cast

import pytest
from support.actors import hungry, probe, spinner
from support.command import make_command
from support.level_records import measured

from plexspaces_node import NodeClient, level_figures
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import NotFound
from plexspaces_node.model import MIB
from plexspaces_node.node.access.identity import LOCAL, Identity, Kind, Scope
from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.advice import Rule
from plexspaces_node.node.advisor.advisor import UPKEEP_S, Advisor
from plexspaces_node.node.applications.activity_watch import ActivityWatch
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.node import Node
from plexspaces_node.telemetry import Advice


class Clock:
    """The time, which a test moves on."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def __call__(self) -> int:
        return time_ns() + self._ahead_ns

    def pass_s(self, seconds: float) -> None:
        self._ahead_ns += int(seconds * 1e9)

    def advisor(self, node: Node) -> Advisor:
        """Another advisor of a node, which has this time."""
        watch = ActivityWatch(node.applications.roster, cast(NodeContext, None), node.info)
        return Advisor(watch, clock=self)


MESSAGES = 300
ROUNDS = 20_000_000
"""Of the spinner's loop: some tens of milliseconds."""


async def advised(
    client: NodeClient, name: str = "", tenant: str = ""
) -> dict[tuple[str, str], Advice]:
    """Return what is advised, by application and rule."""
    response = await client.advise(name, tenant=tenant)
    saved = [one.saved_s_per_s for one in response.advice]
    assert saved == sorted(saved, reverse=True)
    for one in response.advice:
        assert one.facts
        assert one.reckoning
        assert one.advice.isprintable()
    return {(one.application, one.rule): one for one in response.advice}


async def test_many_small_messages_are_advised_to_be_batched(client: NodeClient) -> None:
    """One after the other, each of a few bytes, from one client."""
    await client.deploy("small", probe())
    for _ in range(MESSAGES):
        await client.invoke("small", b"one", type="echo")
    found = await advised(client)
    advice = found["small", "batch"]
    assert ("small", "coordination") not in found
    assert "'echo'" in advice.advice
    facts = {fact.name: fact for fact in advice.facts}
    assert facts["messages"].value == MESSAGES
    assert facts["mean payload"].value == 3
    assert facts["mean payload"].unit == "bytes"
    # No more than was spent can be saved.
    activity = await client.activity("small")
    assert 0 < advice.saved_s_per_s * 2 * 1e9 < activity.application.total.link_ns


async def test_messages_that_compute_nothing_are_advised_to_do_more(client: NodeClient) -> None:
    """What is too large to batch computes next to nothing, and what it logs is passed as well."""
    await client.deploy("large", probe())
    payload = b"." * 50_000
    for _ in range(120):
        await client.invoke("large", payload, type="out")
    found = await advised(client)
    assert "'out' message" in found["large", "coordination"].advice
    assert ("large", "batch") not in found


async def test_asks_are_advised_to_be_calls(node: Node, client: NodeClient) -> None:
    """An application that does nothing but ask another of its tenant."""
    for name in ("shop/front", "shop/back"):
        await client.deploy(name, probe())
    for _ in range(MESSAGES):
        await client.invoke("shop/front", b"\x04back" + b"e" + b"hello", type="ask")
    advice = (await advised(client))["shop/front", "together"]
    assert (advice.application, advice.other) == ("shop/front", "shop/back")
    assert next(fact.value for fact in advice.facts if fact.unit == "count") == MESSAGES
    # Of one application alone, of one tenant, and of another.
    assert ("shop/front", "together") in await advised(client, "shop/front")
    assert ("shop/front", "together") in await advised(client, "front", "shop")
    assert not await advised(client, tenant="other")
    # Whoever sees one of the two alone is told of none that there is another.
    clock = Clock()
    front = Identity(Kind.TOKEN, "t", frozenset({Scope.READ}), "shop", "front")
    report = await clock.advisor(node).advise(front)
    assert {one.application for one in report.advice} <= {"shop/front"}
    assert not any("back" in str(one) for one in (*report.advice, *report.insufficient))
    with pytest.raises(NotFound):
        await clock.advisor(node).advise(front, name="shop/back")


async def test_work_is_left_alone(client: NodeClient) -> None:
    """Messages that compute for much longer than they take to pass."""
    await client.deploy("busy", spinner())
    for _ in range(110):
        await client.invoke("busy", ROUNDS.to_bytes(4, "little"), type="spin")
    assert not await advised(client)


async def test_memory_that_is_never_used_is_advised_to_be_given_back(
    node: Node, client: NodeClient
) -> None:
    """Ten minutes of messages, by a clock that the test moves."""
    clock = Clock()
    advisor = clock.advisor(node)
    await client.deploy("roomy", probe())
    await client.deploy("idle", probe())
    await advisor.look()
    for _ in range(thresholds.MEMORY_LOOKS):
        for _ in range(thresholds.MESSAGES // thresholds.MEMORY_LOOKS):
            await client.invoke("roomy", b"one", type="echo")
        clock.pass_s(UPKEEP_S)
        await advisor.look()
    report = await advisor.advise(LOCAL)
    assert not [one for one in report.advice if one.rule is Rule.MEMORY]
    assert any("roomy had 100 in 10 half minutes, over 5 min" in at for at in report.insufficient)
    clock.pass_s(thresholds.MEMORY_S)
    report = await advisor.advise(LOCAL)
    [advice] = [one for one in report.advice if one.rule is Rule.MEMORY]
    assert advice.application == "roomy"
    wanted_mib = int(advice.command.rpartition(" ")[2])
    assert 64 <= wanted_mib < 192
    assert advice.saved_bytes == (256 - wanted_mib) * MIB
    # What it says works.
    options = DeployOptions(memory_mib=wanted_mib, replace=True)
    await client.deploy("roomy", probe(), options=options)
    await client.invoke("roomy", b"one", type="echo")
    report = await advisor.advise(LOCAL)
    assert not [one for one in report.advice if one.rule is Rule.MEMORY]


async def test_memory_that_is_nearly_full_is_advised_to_be_more(
    node: Node, client: NodeClient
) -> None:
    """An actor that has taken nearly all that it may have."""
    clock = Clock()
    advisor = clock.advisor(node)
    await client.deploy("full", hungry(), options=DeployOptions(memory_mib=80))
    await advisor.look()
    # Of 80 MiB an application has 32.
    await client.invoke("full", (31 * MIB).to_bytes(4, "little"), type="take")
    for _ in range(thresholds.MEMORY_LOOKS):
        for _ in range(thresholds.MESSAGES // thresholds.MEMORY_LOOKS):
            await client.invoke("full", bytes(4), type="take")
        clock.pass_s(thresholds.MEMORY_S / thresholds.MEMORY_LOOKS)
        await advisor.look()
    [advice] = [one for one in (await advisor.advise(LOCAL)).advice if one.rule is Rule.MEMORY]
    assert advice.saved_bytes == 0
    assert int(advice.command.rpartition(" ")[2]) > 80


async def test_stronger_level_is_advised_if_it_costs_little(
    data_dir: Path, client: NodeClient
) -> None:
    """By figures of this host that a node finds; there are none of Firecracker."""
    await client.deploy("app", probe())
    for _ in range(MESSAGES):
        await client.invoke("app", b"one", type="echo")
    report = await client.advise()
    assert any(
        "what process costs on this host was not measured" in at for at in report.insufficient
    )
    path = Path(f"{data_dir}.levels")
    level_figures.write(path, [measured("process", 100_000), measured("qemu", 100_001)])
    advice = (await advised(client))["app", "level"]
    assert -0.001 < advice.saved_s_per_s < 0
    assert advice.command == "plexspaces start-node --node-id node-test --isolation qemu"
    report = await client.advise()
    assert any("what firecracker would cost" in line for line in report.insufficient)
    # One that costs much is none that anybody should be told of.
    level_figures.write(path, [measured("qemu", 1_000_000_000)])
    assert ("app", "level") not in await advised(client)


def test_levels_that_work_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Each with a node and a probe of its own; for a user without a guest image it is one."""
    command = make_command(monkeypatch, capsysbinary.readouterr, tmp_path)
    ran = command("advise", "--measure", "--json")
    assert ran.status == 0, ran.stderr
    [figures] = ran.json
    assert figures["level"] == "process"
    assert 0 < figures["link_ns"] < figures["vm_ns"]
    assert not figures["emulated"]
    assert "qemu was not measured: no guest image" in ran.stderr
    [path] = (tmp_path / ".local/share/plexspaces/levels").iterdir()
    assert level_figures.read(path)["process"].compute_ns == figures["compute_ns"]
    again = command("advise", "--measure")
    assert again.text.splitlines()[0].split()[0] == "LEVEL"
    assert again.text.splitlines()[1].split()[0] == "process"
    assert command("advise", "calculator", "--measure").status != 0


async def test_nothing_is_advised_without_messages(client: NodeClient) -> None:
    """It is told what there is too little data for."""
    await client.deploy("new", probe())
    await client.invoke("new", b"one", type="echo")
    response = await client.advise()
    assert not response.advice
    assert any(": new had 1 in " in line for line in response.insufficient)
    await asyncio.gather(*(client.deploy(f"new{at}", probe()) for at in range(5)))
    response = await client.advise()
    assert any(": 6 applications have had" in line for line in response.insufficient)


async def test_application_that_there_is_not_is_not_found(client: NodeClient) -> None:
    """As everywhere."""
    with pytest.raises(NotFound):
        await client.advise("nobody")
