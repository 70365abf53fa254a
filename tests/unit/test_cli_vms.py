"""`vms list`, `vms inspect` and `vms console` on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import Command, Terminal
from support.fake_node import VM_MEMORY, FakeNode

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.cli.vms import Visible, duration, memory_inside, table
from plexspaces_node.info import VmInfo, VmInspection, VmMemory, VmStep
from plexspaces_node.model import MIB, VmConfig, VmState

BOOT = b"[    0.0] Linux\r\n\x1b[2J\x1b]0;owned\x07 gr\xc3\xb6\xc3\x9fe \xff\r\n"


@pytest.fixture
def deployed(plexspaces: Command, fake_node: FakeNode, wasm: Path) -> Command:
    """The command, after `calc` was deployed."""
    assert plexspaces("deploy", "--name", "calc", "--language", "go", "--wasm", wasm).status == 0
    return plexspaces


def test_list_when_nothing_runs_then_it_says_so_and_what_to_do(plexspaces: Command) -> None:
    """An empty node is told from a command that printed nothing."""
    ran = plexspaces("vms", "list")
    assert (ran.status, ran.text) == (0, "No VMs are running on this node.\n")
    assert ran.stderr == "hint: plexspaces deploy FILE --name NAME\n"
    assert plexspaces("vms", "list", "--json").json == []


def test_list_when_there_are_vms_then_each_has_its_line(
    deployed: Command, fake_node: FakeNode
) -> None:
    """With an application, empty, and one that is starting, of which little is known."""
    starting = VmInfo("vm-new", VmState.STARTING, "qemu", "/s", VmConfig(2, 512))
    fake_node.empty_vms = {"vm-new": starting}
    assert deployed("vms", "list").text == (
        "VM       APPLICATION  STATE     ISOLATION  VCPUS  MEMORY   RSS       CPU      UPTIME\n"
        "vm-calc  calc         Running   process    1      256 MiB  30.0 MiB  1.00 ms  1 h 2 min\n"
        "vm-new   –            Starting  qemu       2      512 MiB  –         –        –\n"
    )
    [calc, new] = deployed("vms", "list", "--json").json
    assert (calc["application"], calc["rss_bytes"]) == ("calc", 30 * MIB)
    assert (new["state"], new["config"]["memory_mib"]) == ("Starting", 512)


@pytest.mark.parametrize("name", ["calc", "vm-calc"])
def test_inspect_when_named_either_way_then_all_that_is_known(deployed: Command, name: str) -> None:
    """The application's name and the VM's id mean the same machine."""
    assert deployed("vms", "inspect", name).text == (
        "vm-calc\n"
        "  Application:  calc\n"
        "  State:        Running\n"
        "  Isolation:    process\n"
        "  Size:         1 vCPU, 256 MiB\n"
        "  Started:      2023-11-14T22:13:20.000Z\n"
        "  Uptime:       1 h 2 min\n"
        "  PID:          4711\n"
        "  RSS:          30.0 MiB on the host\n"
        "  CPU time:     1.00 ms\n"
        "  Guest memory: 90.0 MiB of 240.0 MiB in use, 150.0 MiB available\n"
        "  Socket:       /run/plexspaces/vm-calc/link.sock\n"
        "  Console:      /run/plexspaces/console.log\n"
        "\n"
        "  Step    Time\n"
        "  start  90 ms\n"
        "  hello  10 ms\n"
    )
    record = deployed("vms", "inspect", name, "--json").json
    assert record["memory"]["used_bytes"] == VM_MEMORY.used_bytes
    assert record["steps"][0] == {"name": "start", "duration_ns": 90_000_000}


def test_inspect_when_the_agent_is_silent_then_the_reason_stands_in_place_of_the_number(
    deployed: Command, fake_node: FakeNode
) -> None:
    """What is not known is not shown as nothing."""
    fake_node.inside = "it did not answer\x1b within 1 s"
    said = "  Memory inside: unknown: it did not answer\\x1b within 1 s\n"
    assert said in deployed("vms", "inspect", "calc").text


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (
            VmMemory(False, 512 * MIB, 90 * MIB, 422 * MIB),
            "90.0 MiB allocated by its process, at most 512.0 MiB; there is no guest",
        ),
        (
            VmMemory(False, 0, 90 * MIB, 0),
            "90.0 MiB allocated by its process, without a limit; there is no guest",
        ),
    ],
)
def test_memory_when_there_is_no_guest_then_it_says_whose_it_is(
    memory: VmMemory, said: str
) -> None:
    """At process isolation nobody is led to believe in a guest."""
    vm = VmInfo("vm-1", VmState.RUNNING, "process", "/s")
    assert memory_inside(VmInspection(vm, 1, "/c", memory=memory)) == ("Agent memory", said)


def test_vm_that_lacks_walls_is_listed_with_what_it_lacks() -> None:
    """A kernel without one of them is no secret of the node's note; a column counts them."""
    whole = VmInfo("vm-1", VmState.RUNNING, "process", "/s")
    one, two = (replace(whole, missing_walls=found) for found in (("a",), ("seccomp", "Landlock")))
    told = [(vm.isolated_by, vm.isolated_by_in_short) for vm in (whole, one, two)]
    assert told == [
        ("process", "process"),
        ("process without a", "process, 1 wall missing"),
        ("process without seccomp, Landlock", "process, 2 walls missing"),
    ]
    assert "process, 2 walls missing" in "\n".join(table([two]))


@pytest.mark.parametrize("command_name", ["inspect", "console"])
def test_vm_when_it_is_not_there_then_the_hint_lists_those_that_are(
    plexspaces: Command, command_name: str
) -> None:
    """A slip in the name is mended by one look."""
    ran = plexspaces("vms", command_name, "nobody")
    assert (ran.status, ran.stdout) == (1, b"")
    assert ran.stderr.endswith("hint: plexspaces vms list\n")


def test_vm_when_its_name_cannot_be_one_then_status_2_and_no_node_is_asked(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """A path is no name."""
    for name in ("../etc", "UPPER", ""):
        assert plexspaces("vms", "console", name).status == 2
        assert plexspaces("vms", "inspect", name).status == 2
    assert fake_node.calls == []


def test_console_when_piped_then_the_bytes_are_those_of_the_guest(
    deployed: Command, fake_node: FakeNode
) -> None:
    """A file or a pipe gets all of it, unchanged; the wish for a tail reaches the node."""
    fake_node.console = BOOT
    ran = deployed("vms", "console", "calc", "--tail", "20")
    assert (ran.status, ran.stdout, ran.stderr) == (0, BOOT, "")
    [request] = fake_node.consoles
    assert (request.name, request.tail, request.follow) == ("calc", 20, False)


def test_console_when_on_a_terminal_then_nothing_in_it_steers_it(
    deployed: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines stay lines and letters letters; everything else can be seen."""
    fake_node.console = BOOT
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    deployed("vms", "console", "calc", "-f")
    assert terminal.getvalue() == ("[    0.0] Linux\n\\x1b[2J\\x1b]0;owned\\x07 größe \\xff\n")


def test_console_when_empty_or_ended_then_a_note_says_so(
    deployed: Command, fake_node: FakeNode
) -> None:
    """Silence is explained, beside the data."""
    ran = deployed("vms", "console", "calc")
    assert (ran.stdout, ran.stderr) == (
        b"",
        "the console of calc is empty\n",
    )
    fake_node.console = b"x\n"
    ran = deployed("vms", "console", "calc", "--follow")
    assert (ran.stdout, ran.stderr) == (b"x\n", "the VM of calc is gone\n")


@given(st.binary(max_size=60), st.integers(1, 9))
def test_visible_when_cut_anywhere_then_the_text_is_the_same(data: bytes, step: int) -> None:
    """However the stream is chopped, no control character but the end of a line is left."""
    # What ends in the middle of a letter or a line end waits for the rest.
    data += b"."
    visible = Visible()
    cut = "".join(visible(data[at : at + step]) for at in range(0, len(data), step))
    assert cut == Visible()(data)
    assert all(char.isprintable() or char in "\t\n" for char in cut)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3_725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration_when_long_then_in_its_two_largest_units(seconds: int, said: str) -> None:
    """An uptime is read at a glance."""
    assert duration(seconds * 1_000_000_000 + 999_999_999) == said


@pytest.mark.parametrize("command_name", ["list", "inspect", "console"])
def test_help_when_asked_then_it_has_an_example(command: Command, command_name: str) -> None:
    """Each of the commands shows how it is used."""
    ran = command("vms", command_name, "--help")
    assert ran.status == 0
    assert f"Example:  plexspaces vms {command_name}" in ran.text


@pytest.mark.parametrize("memory", [None, VM_MEMORY, replace(VM_MEMORY, guest=False)])
def test_inspection_when_sent_then_every_field_survives(memory: VmMemory | None) -> None:
    """What the node found is what the client shows."""
    vm = VmInfo(
        *("vm-1", VmState.RUNNING, "qemu", "/s"),
        application="calc",
        uptime_ns=9,
        started_unix_ns=8,
    )
    unknown = "" if memory else "busy"
    inspection = VmInspection(vm, 7, "/c", (VmStep("start", 5),), memory, unknown)
    wire = convert.inspection_to_proto(inspection).SerializeToString()
    assert convert.inspection_from_proto(pb.InspectVmResponse.FromString(wire)) == inspection
