"""`start-node`: what it prints and what signals do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from support.command import Command

import plexspaces_node
from plexspaces_node.config import Config
from plexspaces_node.errors import Unavailable
from plexspaces_node.info import ClusterInfo, ClusterNodeInfo

READY = """\
Starting empty PlexSpaces node: n-1
✓ Empty node started successfully
  Node ID: n-1
  Node is ready to accept deployments via ApplicationService
  Address:   127.0.0.1:9000
  Isolation: process: a sandbox
  HTTP:      http://127.0.0.1:8080
"""


@dataclass
class Script:
    """What happens to the node of a test, and what did."""

    fail: Unavailable | None = None
    recovered: tuple[str, ...] = ()
    signal_while_building: int | None = None
    signal_when_up: int = signal.SIGTERM
    signal_while_draining: int | None = None
    drains: bool = True
    http_fault: str = ""
    done: list[str] = field(default_factory=list)
    configs: list[Config] = field(default_factory=list)

    def builder(self, node_id: str) -> ScriptedBuilder:
        """Stand for the class `NodeBuilder`."""
        return ScriptedBuilder(self)


class ScriptedBuilder:
    """Stands for a `NodeBuilder`; its node sends the signals a user would."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def with_config(self, config: Config) -> Self:
        self._script.configs.append(config)
        return self

    @asynccontextmanager
    async def build(self) -> AsyncIterator[ScriptedNode]:
        script = self._script
        if script.fail is not None:
            raise script.fail
        try:
            if script.signal_while_building is not None:
                os.kill(os.getpid(), script.signal_while_building)
                await asyncio.Event().wait()
            os.kill(os.getpid(), script.signal_when_up)
            yield ScriptedNode(script)
        finally:
            script.done.append("closed")


class FakeClustering:
    """Stands for a node's part in a cluster of two, of which one is up."""

    nodes = (
        ClusterNodeInfo("n", "up", "process", "1.0", 1, 1, 1, 0, route="10.0.0.1:9400"),
        ClusterNodeInfo("m", "down", "process", "1.0", 1, 1, 1, 0),
    )

    async def describe(self) -> ClusterInfo:
        return ClusterInfo("shop", self.nodes, 1, answered_by="n")


class ScriptedNode:
    """Stands for a `Node`."""

    isolation = "process"
    speaks_tls = False
    is_unguarded = False
    isolation_note = "a sandbox"
    clustering: FakeClustering | None = None

    def __init__(self, script: Script) -> None:
        self._script = script
        self.http_fault = script.http_fault
        self.http_address = "" if script.http_fault else "127.0.0.1:8080"
        self.id = script.configs[0].node.id
        self.address = script.configs[0].node.address
        self.recovered = script.recovered
        self.is_empty = not script.recovered

    async def drain(self) -> bool:
        self._script.done.append("drain")
        if self._script.signal_while_draining is not None:
            os.kill(os.getpid(), self._script.signal_while_draining)
            await asyncio.Event().wait()
        return self._script.drains

    async def abort(self) -> None:
        self._script.done.append("abort")


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """The script of the node; the log and the signals must be put back."""
    written = Script()
    monkeypatch.setattr(plexspaces_node, "NodeBuilder", written.builder, raising=False)
    root = logging.getLogger()
    log = (root.handlers, root.level)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield written
    assert (root.handlers, root.level) == log
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_node_when_signalled_once_then_it_drains_and_ends_with_0(
    command: Command, script: Script, number: int
) -> None:
    """The promised lines, then an end in good order."""
    script.signal_when_up = number
    ran = command("start-node", "--node-id", "n-1")
    assert (ran.status, ran.text) == (0, READY)
    assert script.done == ["drain", "closed"]


def test_node_when_it_has_no_http_port_then_it_says_why(command: Command, script: Script) -> None:
    """Whoever looks for the address finds the reason there."""
    script.http_fault = "cannot listen on 127.0.0.1:8080: the port is in use"
    ran = command("start-node", "--node-id", "n-1")
    said = "  HTTP:      off (cannot listen on 127.0.0.1:8080: the port is in use)\n"
    assert ran.text == READY.replace("  HTTP:      http://127.0.0.1:8080\n", said)


def test_node_when_it_is_one_of_a_cluster_then_it_says_how_others_join(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how many of its nodes are up; without a majority it says that."""
    monkeypatch.setattr(ScriptedNode, "clustering", FakeClustering())
    ran = command("start-node", "--node-id", "n-1", "--cluster", "shop")
    line = "  Cluster:   shop, 1 of 2 nodes up; others join with --join 10.0.0.1:9400\n"
    assert line in ran.text
    monkeypatch.setattr(FakeClustering, "nodes", FakeClustering.nodes[1:])
    ran = command("start-node", "--node-id", "n-1", "--cluster", "shop")
    assert "no majority is reached yet" in ran.text


def test_node_when_no_id_is_given_then_it_is_the_configurations(
    command: Command, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is one of the places that a setting comes from, as of every other."""
    script.signal_when_up = signal.SIGINT
    assert "PlexSpaces node: node-1\n" in command("start-node").text
    monkeypatch.setenv("PLEXSPACES_NODE_ID", "from-environment")
    assert "PlexSpaces node: from-environment\n" in command("start-node").text


def test_node_when_not_all_could_be_saved_then_status_1(command: Command, script: Script) -> None:
    """Whoever stops a node learns that something is lost."""
    script.drains = False
    ran = command("start-node", "--node-id", "n-1")
    assert ran.status == 1
    assert "some applications could not be stopped and saved" in ran.stderr
    assert script.done == ["drain", "closed"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_node_when_signalled_twice_then_it_aborts(
    command: Command, script: Script, number: int, status: int
) -> None:
    """A second signal does not wait for the first to have its way."""
    script.signal_while_draining = number
    assert command("start-node", "--node-id", "n-1").status == status
    assert script.done == ["drain", "abort", "closed"]


def test_node_when_signalled_while_starting_then_what_was_started_is_undone(
    command: Command, script: Script
) -> None:
    """A start that takes long can be given up."""
    script.signal_while_building = signal.SIGINT
    ran = command("start-node", "--node-id", "n-1")
    assert (ran.status, ran.text) == (130, "Starting empty PlexSpaces node: n-1\n")
    assert script.done == ["closed"]


def test_node_when_it_recovered_applications_then_they_are_named(
    command: Command, script: Script
) -> None:
    """After a crash the operator sees what is there again."""
    script.recovered = ("calc", "greeter")
    assert "  Restarting: calc, greeter\n" in command("start-node", "--node-id", "n-1").text


def test_node_when_the_port_is_in_use_then_status_1(command: Command, script: Script) -> None:
    """Why it does not start, and nothing more."""
    script.fail = Unavailable("cannot listen on 127.0.0.1:9000", hint="ss -ltnp")
    ran = command("start-node", "--node-id", "n-1")
    assert ran.status == 1
    assert ran.stderr == "error: cannot listen on 127.0.0.1:9000\nhint: ss -ltnp\n"


def test_node_when_flags_are_given_then_each_reaches_its_configuration(
    command: Command, script: Script, tmp_path: Path
) -> None:
    """Flags stand above the file that --config names."""
    file = tmp_path / "my.toml"
    file.write_text('[node]\naddress = "127.0.0.1:1"\ngrace_s = 3.0\n')
    flags = ("--address", "127.0.0.1:7", "--isolation", "process", "--data-dir", "d")
    assert command("start-node", "--node-id", "n-1", *flags, "--config", file).status == 0
    (config,) = script.configs
    assert (config.node.id, config.node.address) == ("n-1", "127.0.0.1:7")
    assert (config.node.isolation, config.node.grace_s) == ("process", 3.0)
    assert config.node.data_dir == tmp_path / "d"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--node-id", "Not Valid"), "node.id = 'Not Valid', from flag --node-id"),
        (("--node-id", "n-1", "--address", "nowhere"), "node.address = 'nowhere'"),
        (("--node-id", "n-1", "--isolation", "magic"), "node.isolation = 'magic'"),
        (("--node-id", "n-1", "--config", "none.toml"), "'none.toml' does not exist"),
    ],
)
def test_node_when_used_wrongly_then_status_2_and_nothing_is_started(
    command: Command, script: Script, flags: tuple[str, ...], said: str
) -> None:
    """Every bad value is named before anything is made."""
    ran = command("start-node", *flags)
    assert (ran.status, ran.stdout) == (2, b"")
    assert said in ran.stderr
    assert script.configs == []
