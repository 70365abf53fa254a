"""The exit statuses: the same kind of mistake ends every command with the same one."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import Command
from support.fake_node import FakeNode

from plexspaces_node.cli import status
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import (
    PLATFORM_ERRORS,
    ActorError,
    ActorFailed,
    ActorTrapped,
    PlexSpacesError,
    VmStartFailed,
)
from plexspaces_node.info import Listing

_OF_A_NODE = (
    *(("list",), ("inspect", "calc"), ("logs", "calc"), ("invoke", "calc")),
    *(("stop", "calc"), ("start", "calc"), ("undeploy", "calc")),
    ("deploy", "--name", "calc", "--wasm", "app.wasm"),
    *(("vms", "list"), ("vms", "inspect", "calc"), ("vms", "console", "calc")),
)


def _of_name(name: str) -> tuple[tuple[str, ...], ...]:
    verbs = ("inspect", "logs", "invoke", "stop", "start", "undeploy")
    return (*((verb, name) for verb in verbs), ("vms", "inspect", name), ("vms", "console", name))


def _joined(words: tuple[str, ...]) -> str:
    return " ".join(words)


@pytest.mark.parametrize("arguments", _OF_A_NODE, ids=_joined)
def test_status_when_no_node_answers_then_1(
    command: Command, wasm: Path, free_address: str, arguments: tuple[str, ...]
) -> None:
    """What was given is right, and may work in a minute."""
    ran = command(*arguments, "--node-address", free_address)
    assert (ran.status, ran.stdout) == (1, b"")


@pytest.mark.parametrize("arguments", [*_OF_A_NODE, ("run",)], ids=_joined)
def test_status_when_the_address_cannot_be_one_then_2_at_once(
    command: Command, wasm: Path, arguments: tuple[str, ...]
) -> None:
    """No command works for half a minute before it says so."""
    ran = command(*arguments, "--node-address", "nonsense")
    assert (ran.status, ran.stdout) == (2, b"")
    assert ran.stderr.startswith("error: node address 'nonsense' is not HOST:PORT\n")


@pytest.mark.parametrize("arguments", _of_name("nobody"), ids=_joined)
def test_status_when_nothing_has_the_name_then_1(
    plexspaces: Command, arguments: tuple[str, ...]
) -> None:
    """A good name of nothing is a question of what is there."""
    ran = plexspaces(*arguments)
    assert (ran.status, ran.stdout) == (1, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        *_of_name("No_Name"),
        ("deploy", "--name", "No_Name", "--wasm", "app.wasm"),
        ("empty-vm-typescript", "--vm-id", "No_Name", "--wasm", "app.wasm"),
        ("new", "python", "No Name"),
        ("start-node", "--node-id", "No_Name"),
    ],
    ids=_joined,
)
def test_status_when_a_name_cannot_be_one_then_2(
    plexspaces: Command, fake_node: FakeNode, wasm: Path, arguments: tuple[str, ...]
) -> None:
    """A name with letters no name has is wrong wherever it is given; no node is asked."""
    ran = plexspaces(*arguments)
    assert (ran.status, ran.stdout) == (2, b"")
    assert set(fake_node.calls) <= {"InspectNode"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "none"),
        ("deploy", "gone.wasm"),
        ("deploy", "--name", "x", "--wasm", "none.wasm"),
        ("deploy", "--name", "x", "--wasm", "."),
        ("invoke", "x", "--file", "none"),
        ("invoke", "x", "--file", "."),
        ("empty-vm-typescript", "--vm-id", "x", "--wasm", "none.wasm"),
        ("build", "none"),
        ("build", "app.wasm"),
        ("build", ".", "-o", "none/app.wasm"),
        ("config", "show", "--config", "none"),
        ("doctor", "--config", "none"),
        ("image", "list", "--config", "none"),
        ("start-node", "--node-id", "x", "--config", "none"),
        ("start-node", "--node-id", "x", "--config", "."),
    ],
    ids=_joined,
)
def test_status_when_a_path_leads_to_nothing_of_the_kind_then_2(
    plexspaces: Command, wasm: Path, arguments: tuple[str, ...]
) -> None:
    """A slip in a path is one kind of mistake, whatever the path is for."""
    Path("app.py").touch()
    ran = plexspaces(*arguments)
    assert (ran.status, ran.stdout) == (2, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("logs", "x", "--tail", "-1"), ("vms", "console", "x", "--tail", "many")),
        *(("invoke", "x", "--timeout", "0"), ("invoke", "x", "--timeout", "soon")),
        *(("run", "--operations", "0"), ("run", "--limit", "1")),
        ("deploy", "--name", "x", "--wasm", "app.wasm", "--vcpus", "0"),
        ("deploy", "--name", "x", "--wasm", "app.wasm", "--memory", "1"),
        ("deploy", "--name", "x", "--wasm", "app.wasm", "--language", "cobol"),
        ("deploy", "--name", "x", "--wasm", "app.wasm", "--env", "A"),
        ("empty-vm-typescript", "--vm-id", "x", "--wasm", "app.wasm", "--vcpus", "0"),
        *(("new", "cobol", "x"), ("toolchain", "install", "cobol")),
        ("start-node", "--node-id", "x", "--isolation", "magic"),
        ("start-node", "--node-id", "x", "--address", "0.0.0.0:1"),
    ],
    ids=_joined,
)
def test_status_when_a_value_is_out_of_bounds_then_2(
    plexspaces: Command, wasm: Path, arguments: tuple[str, ...]
) -> None:
    """Whoever finds it, the parser of options, the client or the node: the status is one."""
    ran = plexspaces(*arguments)
    assert (ran.status, ran.stdout) == (2, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_status_when_ended_by_a_signal_then_it_tells_which(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A script knows whether it was interrupted or told to end; what is under way is undone."""
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]

    async def signalled(_: NodeClient, **_options: object) -> Listing:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
        raise AssertionError("the wait above ends by being cancelled")

    monkeypatch.setattr(NodeClient, "list", signalled)
    assert plexspaces("list").status == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_status_when_typer_ends_by_itself_then_1_and_not_as_if_the_reader_had_gone(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a pipe that broke is one."""
    monkeypatch.setenv("_PLEXSPACES_COMPLETE", "bogus")
    assert plexspaces().status == 1


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("vms", "list", "--json")])
def test_status_when_stdout_is_closed_then_as_ever(
    command: Command, fake_node: FakeNode, arguments: tuple[str, ...]
) -> None:
    """Whoever wants to hear nothing gets no traceback."""
    program = [sys.executable, "-m", "plexspaces_node.cli.main", *arguments]
    shell = f"{shlex.join(program)} --node-address {fake_node.address} >&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_when_stderr_takes_nothing_then_as_ever() -> None:
    """What was given is wrong also where nobody can be told."""
    program = shlex.join([sys.executable, "-m", "plexspaces_node.cli.main", "no-such-command"])
    for stderr in ("/dev/full", "&-"):
        assert subprocess.run(["sh", "-c", f"{program} 2>{stderr}"], timeout=60).returncode == 2


def test_status_when_told_to_end_as_a_background_job_then_it_ends(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script's shell makes its background jobs deaf to Ctrl-C, not to SIGTERM."""

    async def signalled(_: NodeClient, **_options: object) -> Listing:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        raise AssertionError("the wait above ends by being cancelled")

    monkeypatch.setattr(NodeClient, "list", signalled)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert plexspaces("list").status == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)


def test_status_of_an_error_when_any_then_2_only_for_what_was_given() -> None:
    """The class alone decides, for those of the platform and of actors."""
    errors: list[PlexSpacesError | ActorError] = [
        cls("x", step="boot") if cls is VmStartFailed else cls("x") for cls in PLATFORM_ERRORS
    ]
    errors += [ActorFailed("x", code="c"), ActorTrapped("x", code="c")]
    by_status = {status.FAILED: set[str](), status.USED_WRONGLY: set[str]()}
    for error in errors:
        by_status[status.status_of(error)].add(error.code)
    assert by_status[status.USED_WRONGLY] == {"invalid_argument"}


def test_statuses_when_asked_for_then_help_and_page_have_them(command: Command) -> None:
    """One table: in the module, in short in the help, and for readers on their page."""
    assert status.IN_SHORT in " ".join(command("--help").text.split())
    page = Path(__file__).parents[2] / "docs" / "exit-statuses.md"
    table = page.read_text(encoding="utf-8").partition("| status | meaning |\n")[2]
    assert re.findall(r"`(\d+)`", table.partition("\n\n")[0]) == [
        "0",
        "1",
        "2",
        "130",
        "143",
        "141",
    ]
