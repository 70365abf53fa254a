"""List, inspect and logs on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Command, Terminal
from support.fake_node import LOG, TRACE_ID, FakeNode

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.cli.show import plain_listing
from plexspaces_node.info import Listing
from plexspaces_node.model import ApplicationState


@pytest.fixture
def deployed(plexspaces: Command, wasm: Path) -> Command:
    """The command, after `calc` was deployed."""
    assert plexspaces("deploy", "--name", "calc", "--language", "go", "--wasm", wasm).status == 0
    return plexspaces


def test_list_when_nothing_is_deployed_then_it_says_so(plexspaces: Command) -> None:
    """An empty node has a listing too."""
    assert plexspaces("list").text == (
        "Listing deployed actors...\nFound 0 VM(s) with actors:\nDiscovery time: 3.00 ms\n"
    )


def test_list_when_everything_is_there_then_each_has_its_lines(
    deployed: Command, fake_node: FakeNode, wasm: Path
) -> None:
    """VMs with an application, applications without a VM, empty VMs."""
    deployed("deploy", "--name", "tired", "--wasm", wasm)
    deployed("stop", "--name", "tired")
    fake_node.StartVm(pb.StartVmRequest(vm_id="vm-spare"), None)  # type: ignore[arg-type]
    assert deployed("list").text == (
        "Listing deployed actors...\n"
        "Found 1 VM(s) with actors:\n"
        "  - vm-calc: Running (/run/plexspaces/vm-calc/link.sock)\n"
        "    Application: calc\n"
        "    Language: go\n"
        "    Isolation: process\n"
        "Found 1 application(s) without a VM:\n"
        "  - tired: Stopped\n"
        "Found 1 empty VM(s):\n"
        "  - vm-spare: Empty (/run/plexspaces/vm-spare/link.sock)\n"
        "Discovery time: 3.00 ms\n"
    )


def test_list_when_an_application_is_not_running_then_its_state_is_beside_its_name(
    deployed: Command, fake_node: FakeNode
) -> None:
    """A VM that runs does not hide an application that does not."""
    one = replace(fake_node.applications["calc"], state=ApplicationState.STARTING)
    assert "    Application: calc (Starting)" in list(plain_listing(Listing((one,), (), 1)))


def test_list_when_for_programs_then_everything_is_there(deployed: Command) -> None:
    """JSON carries all that the node said."""
    listing = deployed("list", "--json").json
    assert listing["discovery_ns"] == 3_000_000
    assert listing["empty_vms"] == []
    (application,) = listing["applications"]
    assert (application["name"], application["state"]) == ("calc", "Running")
    assert application["vm"]["socket"] == "/run/plexspaces/vm-calc/link.sock"
    assert "env" not in application


@pytest.mark.parametrize(("width", "heading"), [(95, "APPLICATION"), (94, "-")])
def test_list_when_the_terminal_is_wide_enough_then_a_table(
    deployed: Command, monkeypatch: pytest.MonkeyPatch, width: int, heading: str
) -> None:
    """One row an application, with what its VM costs; one that would be folded is none."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    deployed("list")
    lines = [line.split() for line in terminal.getvalue().splitlines()]
    assert lines[1][0] == "Found"
    assert lines[2][0] == heading
    if heading == "APPLICATION":
        assert lines[3][:5] == ["calc", "Running", "go", "vm-calc", "process"]


def test_inspect_when_asked_then_state_size_counters_and_phases(deployed: Command) -> None:
    """A person sees all of it; a program gets the record."""
    text = deployed("inspect", "calc").text
    assert text.startswith("calc\n  State:          Running\n")
    for said in ("2 vCPU, 128 MiB", "30.0 MiB on the host", "0, 0 failed", "2023-11-14T22:13:20"):
        assert said in text
    assert deployed("inspect", "calc", "--json").json["counters"]["messages"] == 0


def test_inspect_when_it_failed_then_why_is_beside_the_state(
    deployed: Command, fake_node: FakeNode
) -> None:
    """The reason is not to be looked for in a log."""
    fake_node.applications["calc"] = replace(
        fake_node.applications["calc"],
        state=ApplicationState.FAILED,
        last_error="no hello \x1b[2J in 5 s",
        vm=None,
    )
    text = deployed("inspect", "calc").text
    assert "State:          Failed: no hello \\x1b[2J in 5 s\n" in text
    assert "VM:" not in text


def test_logs_when_read_then_time_level_stream_and_text(deployed: Command) -> None:
    """A line of several lines is indented below its head."""
    assert deployed("logs", "calc").text == (
        "2023-11-14T22:13:20.000Z info  log    ready\n"
        "2023-11-14T22:13:20.500Z info  stdout hello\n"
        "2023-11-14T22:13:21.000Z error stderr two\n"
        "                                      lines\n"
    )
    assert deployed("logs", "calc", "--tail", "1").text.count("\n") == 2


def test_logs_when_for_a_trace_then_only_its_lines(deployed: Command) -> None:
    """The line is as without; its trace is in the JSON."""
    ran = deployed("logs", "calc", "--trace", TRACE_ID)
    assert ran.text == "2023-11-14T22:13:20.500Z info  stdout hello\n"
    lines = [json.loads(line) for line in deployed("logs", "calc", "--json").text.splitlines()]
    assert [line["trace_id"] for line in lines] == ["", TRACE_ID, ""]


def test_logs_when_the_trace_is_none_then_it_says_what_one_is(deployed: Command) -> None:
    """Before the node is asked."""
    ran = deployed("logs", "calc", "--trace", TRACE_ID.upper())
    assert ran.status == 2
    assert "32 hexadecimal digits" in ran.stderr


def test_logs_when_followed_then_later_lines_come(deployed: Command, fake_node: FakeNode) -> None:
    """With -f the past comes first, then what is new."""
    fake_node.log_gate.set()
    ran = deployed("logs", "calc", "-f", "--json")
    lines = [json.loads(line) for line in ran.text.splitlines()]
    assert [line["message"] for line in lines] == [*(line.message for line in LOG), "later"]


def test_logs_when_there_is_no_application_then_status_1(plexspaces: Command) -> None:
    """No log is told from an empty one."""
    ran = plexspaces("logs", "calc")
    assert (ran.status, ran.stdout) == (1, b"")
