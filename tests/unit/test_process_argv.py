"""The command line of an agent, as data, and how what holds it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.users import uid_of
from plexspaces_node.vm.process.sandbox import ENVIRONMENT, Walls, agent_command, probe_command

AGENT = ("/opt/plexspaces-agent",)
BUNDLE = Bundle(Path("/data/vms/vm-1"))


def test_command_names_the_machine_and_all_that_is_to_hold_its_agent() -> None:
    """The whole vector, so that any change of it is a change of this test."""
    command = agent_command(AGENT, BUNDLE, memory_mib=64, node_pid=7, own_user=True)
    assert command == [
        "/opt/plexspaces-agent",
        "--vm-id",
        "vm-1",
        "--link",
        "/data/vms/vm-1/link.sock",
        "--node-pid",
        "7",
        "--memory-mib",
        "64",
        "--uid",
        str(uid_of(BUNDLE)),
    ]


def test_command_of_a_node_that_is_not_root_names_no_user() -> None:
    """The agent then stays what the node is."""
    command = agent_command(AGENT, BUNDLE, memory_mib=64, node_pid=7, own_user=False)
    assert command[-2:] == ["--memory-mib", "64"]


@pytest.mark.parametrize("own_user", [True, False])
def test_probe_raises_the_walls_that_a_machine_has(own_user: bool) -> None:
    """What the probe finds is true of machines only if both are held alike."""
    machine = agent_command(AGENT, BUNDLE, memory_mib=64, node_pid=7, own_user=own_user)
    probe = probe_command(AGENT, BUNDLE, memory_mib=64, node_pid=7, own_user=own_user)
    assert probe == [*AGENT, "--probe", *machine[5:]]


@pytest.mark.parametrize(
    ("walls", "text"),
    [
        (Walls(own_user=True), "behind seccomp and Landlock, as a user of its own"),
        (
            Walls(own_user=False, missing=("Landlock",)),
            "behind seccomp, as the user of the node; this host has no Landlock",
        ),
        (
            Walls(own_user=True, missing=("Landlock for TCP", "Landlock for signals")),
            "behind seccomp and Landlock, as a user of its own; "
            "this host has no Landlock for TCP, no Landlock for signals",
        ),
        (
            Walls(own_user=False, missing=("seccomp", "Landlock")),
            "as the user of the node; this host has no seccomp, no Landlock",
        ),
    ],
)
def test_walls_read_as_what_is_there_and_what_is_not(walls: Walls, text: str) -> None:
    """A listing claims no wall that the kernel lacks."""
    assert str(walls) == text


def test_agent_is_alone_only_behind_the_filter() -> None:
    """Without it, what an intruder started is looked for when a machine ends."""
    assert Walls(own_user=True, missing=("Landlock",)).filtered
    assert not Walls(own_user=True, missing=("seccomp",)).filtered


def test_environment_of_an_agent_holds_three_harmless_variables() -> None:
    """Whatever is added here reaches every agent, so it is seen in a review."""
    assert set(ENVIRONMENT) == {"PATH", "LANG", "HOME"}
