"""The commands about the nodes of a cluster, and where an application runs, on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Command
from support.fake_node import FakeNode

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.info import Draining, ReplicaInfo


def test_nodes_when_there_are_some_then_each_has_a_line(plexspaces: Command) -> None:
    """With the cluster's name above, and what to know beside."""
    ran = plexspaces("nodes")
    assert ran.text == (
        "Cluster shop: 2 nodes (state on 2 of them)\n"
        "NODE  STATE     LEVEL    APPLICATIONS  MEMORY FREE       VERSION  LABELS\n"
        "a     up        process  2 of 64       3584 of 4096 MiB  1.0      zone=a  "
        "leads, keeps state\n"
        "b     draining  process  0 of 64       4096 of 4096 MiB  1.0      –       keeps state\n"
    )
    assert ran.stderr.startswith("warning: the state is on 2 nodes")


def test_nodes_when_json_then_everything_is_there(plexspaces: Command) -> None:
    """Under the names of the Python client."""
    told = plexspaces("nodes", "--json").json
    assert (told["cluster"], told["copies"], told["answered_by"]) == ("shop", 2, "a")
    assert told["nodes"][0]["labels"] == {"zone": "a"}
    assert [node["leads"] for node in told["nodes"]] == [True, False]


def test_nodes_when_there_is_no_cluster_then_the_hint_says_how_to_begin_one(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """As a single node answers."""
    hint = "plexspaces start-node --cluster NAME"
    fake_node.fail["ListNodes"] = WrongState("this node is in no cluster", hint=hint)
    ran = plexspaces("nodes")
    assert (ran.status, ran.text) == (1, "")
    assert ran.stderr == f"error: this node is in no cluster\nhint: {hint}\n"


def test_drain_when_applications_move_then_it_says_what_is_left(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """And at the end that nothing is."""
    ran = plexspaces("nodes", "drain", "b")
    assert (ran.status, ran.text) == (0, "✓ b is drained: nothing runs there\n")
    said = "2 applications left on b (calc, site): no other node has room\nb is empty\n"
    assert ran.stderr == said
    assert fake_node.cluster.done == [("drain", "b", False)]


def test_drain_when_many_are_left_then_some_are_named(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """A line stays a line."""
    names = tuple(f"app-{number}" for number in range(9))
    fake_node.cluster.steps = [Draining(9, names), Draining(0)]
    assert "9 applications left on b (app-0, app-1, app-2, app-3, app-4 …)\n" in (
        plexspaces("nodes", "drain", "b").stderr
    )


def test_undrain_and_remove_when_asked_then_they_are_done(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """One line each, or JSON."""
    assert plexspaces("nodes", "undrain", "b").text == "✓ b takes applications\n"
    assert plexspaces("nodes", "remove", "b").text == "✓ Removed b from the cluster\n"
    told = plexspaces("nodes", "remove", "b", "--force", "--json").json
    assert told == {"node": "b", "removed": True}
    assert fake_node.cluster.done == [
        ("undrain", "b", False),
        ("remove", "b", False),
        ("remove", "b", True),
    ]


def test_remove_when_there_is_no_such_node_then_status_1(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """With the node's own words."""
    fake_node.fail["RemoveNode"] = NotFound("there is no node 'x'", hint="plexspaces nodes")
    ran = plexspaces("nodes", "remove", "x")
    assert (ran.status, ran.stderr) == (1, "error: there is no node 'x'\nhint: plexspaces nodes\n")


def test_token_when_a_node_of_a_cluster_is_here_then_it_is_printed(
    command: Command, tmp_path: Path
) -> None:
    """From its data directory alone, without a call."""
    file, token = tmp_path / "data" / "cluster" / "token", ClusterToken.new()
    file.parent.mkdir(parents=True)
    file.write_text(token.text + "\n")
    file.chmod(0o600)
    assert command("nodes", "token", "--data-dir", tmp_path / "data").text == token.text + "\n"
    file.chmod(0o644)
    ran = command("nodes", "token", "--data-dir", tmp_path / "data")
    assert ran.status == 2
    assert token.text not in ran.stderr
    assert "chmod 600" in ran.stderr


def test_token_when_no_node_of_a_cluster_is_here_then_it_says_where_it_looked(
    command: Command, tmp_path: Path
) -> None:
    """A single node has none."""
    ran = command("nodes", "token", "--data-dir", tmp_path)
    assert ran.status == 1
    assert f"no node of a cluster has its data in {tmp_path}\n" in ran.stderr


def test_deploy_when_nodes_are_chosen_then_the_node_is_asked_so(
    plexspaces: Command, fake_node: FakeNode, wasm: Path
) -> None:
    """Replicas, labels and a level."""
    flags = ("--replicas", "3", "--on", "zone=a", "--on", "disk=ssd", "--level", "qemu")
    assert plexspaces("deploy", "--name", "calc", "--wasm", wasm, *flags).status == 0
    asked = fake_node.deploys[0]
    assert (asked.replicas, dict(asked.on), asked.level) == (
        3,
        {"zone": "a", "disk": "ssd"},
        "qemu",
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--replicas", "0"), "replicas must be at least 1"),
        (("--replicas", "65"), "replicas must be from 1 to 64"),
        (("--on", "zone"), "--on takes LABEL=VALUE"),
        (("--on", "zone="), "is not valid"),
        (("--level", "docker"), "unknown isolation level 'docker'"),
    ],
)
def test_deploy_when_a_wish_is_wrong_then_status_2(
    plexspaces: Command, fake_node: FakeNode, wasm: Path, flags: tuple[str, ...], said: str
) -> None:
    """Before anything is sent."""
    ran = plexspaces("deploy", "--name", "calc", "--wasm", wasm, *flags)
    assert ran.status == 2
    assert said in ran.stderr
    assert fake_node.deploys == []


def test_list_and_inspect_when_in_a_cluster_then_they_say_where(
    plexspaces: Command, fake_node: FakeNode, wasm: Path
) -> None:
    """On which nodes, and in which state there."""
    assert plexspaces("deploy", "--name", "calc", "--wasm", wasm).status == 0
    alone = plexspaces("list", "--json").json["applications"][0]
    assert not {"node", "nodes", "replicas", "on", "level", "placement"} & set(alone)
    nodes = (ReplicaInfo("a", "Running"), ReplicaInfo("b", "Ready"))
    fake_node.applications["calc"] = replace(
        fake_node.applications["calc"],
        node="a",
        nodes=nodes,
        replicas=2,
        on={"zone": "a"},
        placement="no other node has room",
    )
    assert "    Isolation: process\n    Nodes: a (Running), b (Ready)\n" in plexspaces("list").text
    shown = plexspaces("inspect", "calc").text
    assert "Nodes:          a (Running), b (Ready)\n" in shown
    assert "Replicas:       2\n" in shown
    assert "Only on nodes:  zone=a\n" in shown
    assert "Placement:      no other node has room\n" in shown
    told = plexspaces("list", "--json").json["applications"][0]
    assert (told["node"], told["nodes"][1]) == ("a", {"node": "b", "state": "Ready", "error": ""})
