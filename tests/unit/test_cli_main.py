"""The program as a whole: help, versions, errors and exit statuses."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.command import Command, Ran, Terminal
from support.fake_node import FakeNode

import plexspaces_node
from plexspaces_node.cli.main import HOMES, PANELS, root
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import PLATFORM_ERRORS, ActorFailed, PlexSpacesError, VmStartFailed
from plexspaces_node.info import Listing


def _tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command and group below a group, at any depth."""
    for name, child in getattr(command, "commands", {}).items():
        yield (*path, name)
        yield from _tree(child, (*path, name))


TREE = tuple(_tree(typer.main.get_command(root)))


def test_tree_when_walked_then_groups_and_their_commands_are_in_it() -> None:
    """The walk that the next test relies on misses nothing that has a home."""
    assert {path[0] for path in TREE} == set(HOMES)
    assert {("config", "show"), ("vms", "console"), ("toolchain", "install")} <= set(TREE)


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_help_when_asked_of_any_command_then_it_has_text_and_an_example(
    command: Command, path: tuple[str, ...]
) -> None:
    """Every command and every group explains itself, and shows a use of itself."""
    ran = command(*path, "--help")
    assert ran.status == 0
    assert f"Usage: plexspaces {' '.join(path)}" in ran.text
    assert f"Example:  plexspaces {' '.join(path)}" in ran.text


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_when_no_command_is_named_then_all_are_listed(
    command: Command, arguments: tuple[str, ...]
) -> None:
    """A newcomer who types the bare name sees every command."""
    ran = command(*arguments)
    assert ran.status == 0
    assert all(name in ran.text for name in HOMES)


def test_help_when_commands_are_listed_then_each_is_below_its_heading(command: Command) -> None:
    """In the order of the table, so that a newcomer reads from the top."""
    shown = command("--help").text
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    for panel, place, end in zip(PANELS, places, [*places[1:], len(shown)], strict=True):
        assert re.findall(r"^│ ([a-z-]+)", shown[place:end], re.MULTILINE) == [*PANELS[panel]]


def test_help_when_it_has_paragraphs_then_they_fill_the_lines(command: Command) -> None:
    """Lines end where the terminal does, not where those of the source do."""
    assert "user of the node and\n root on its host. If the node" in re.sub(
        r" +\n", "\n", command("token", "create", "--help").text
    )


def test_version_when_asked_in_any_way_then_it_is_the_packages(command: Command) -> None:
    """The flag and the command say the same."""
    expected = f"plexspaces {plexspaces_node.__version__}\n"
    assert command("--version").text == expected
    assert command("version").text == expected
    assert command("version", "--json").json == {"version": plexspaces_node.__version__}


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("lits",), "No such command 'lits'. Did you mean 'list'?", "plexspaces --help"),
        (("stop",), "no application name given", "plexspaces list"),
        (("inspect",), "Missing argument 'NAME'", "plexspaces inspect --help"),
        (("list", "--nope"), "No such option: --nope", "plexspaces list --help"),
        (
            ("run", "--operations", "0"),
            "--operations takes a number of at least 1, not '0'",
            "plexspaces run --help",
        ),
        (
            ("logs", "x", "--tail", "-1"),
            "--tail takes a number of at least 0, not '-1'",
            "plexspaces logs --help",
        ),
        (
            ("invoke", "x", "--timeout", "soon"),
            "--timeout takes a number, not 'soon'",
            "invoke --help",
        ),
        (("deploy", "--memory", "a lot"), "--memory takes a whole number, not 'a lot'", "--help"),
        (("config",), "Missing command", "plexspaces config --help"),
    ],
)
def test_usage_when_wrong_then_status_2_and_the_help_is_named(
    plexspaces: Command, fake_node: FakeNode, arguments: tuple[str, ...], said: str, hint: str
) -> None:
    """A slip of the fingers costs one line of reading and reaches no node."""
    ran = plexspaces(*arguments)
    assert ran.status == 2
    assert ran.stdout == b""
    assert said in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("hint: ")
    assert hint in ran.stderr
    assert fake_node.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("inspect", "calc"),
        ("logs", "calc"),
        ("invoke", "calc"),
        ("stop", "--name", "calc"),
        ("start", "--name", "calc"),
        ("undeploy", "--name", "calc"),
        ("deploy", "--name", "calc", "--wasm", "app.wasm"),
    ],
)
def test_command_when_no_node_answers_then_status_1_says_how_to_start_one(
    command: Command, wasm: Path, free_address: str, arguments: tuple[str, ...]
) -> None:
    """Every command that needs a node says the same two lines without one."""
    ran = command(*arguments, "--node-address", free_address)
    assert ran.status == 1
    assert ran.stdout == b""
    assert ran.stderr.endswith(
        f"error: no node answers at {free_address}\n"
        f"hint: plexspaces start-node --node-id my-node --address {free_address}\n"
    )


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999"])
def test_command_when_the_address_is_none_then_status_2(command: Command, address: str) -> None:
    """An address that cannot be one is told from a node that is away."""
    ran = command("list", "--node-address", address)
    assert (ran.status, ran.stdout) == (2, b"")
    assert f"error: node address '{address}' is not HOST:PORT" in ran.stderr


def test_address_when_an_empty_flag_then_no_other_node_is_taken_for_it(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """A script whose own variable is not set does not undeploy on the default node."""
    ran = plexspaces("undeploy", "calc", "--node-address", "")
    assert ran == Ran(
        2,
        b"",
        "error: --node-address is empty\nhint: pass HOST:PORT, or omit --node-address\n",
    )
    assert fake_node.calls == []


def test_address_when_an_empty_variable_then_it_counts_as_not_set(
    command: Command, fake_node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for every variable of the product: the configuration decides."""
    (tmp_path / "release.toml").write_text(f'[node]\naddress = "{fake_node.address}"\n')
    monkeypatch.setenv("PLEXSPACES_NODE_ADDRESS", "")
    assert command("list").status == 0


def test_address_when_given_in_several_ways_then_the_nearest_wins(
    command: Command, fake_node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag before environment before release.toml before the default."""
    (tmp_path / "release.toml").write_text(f'[node]\naddress = "{fake_node.address}"\n')
    assert command("list").status == 0
    monkeypatch.setenv("PLEXSPACES_NODE_ADDRESS", "127.0.0.1:1")
    assert "no node answers at 127.0.0.1:1\n" in command("list").stderr
    assert command("list", "--node-address", fake_node.address).status == 0


def test_command_when_the_configuration_is_wrong_then_status_2_names_the_key(
    command: Command, tmp_path: Path
) -> None:
    """A typo in release.toml is found by the first command that reads it."""
    (tmp_path / "release.toml").write_text("[node]\nadress = '127.0.0.1:1'\n")
    ran = command("list")
    assert ran.status == 2
    assert "node.adress" in ran.stderr
    assert "closest known name is node.address" in ran.stderr


_NODE = ("--node-address", "127.0.0.1:1")
_EVERY_COMMAND = (
    *(("list", *_NODE), ("inspect", "x", *_NODE), ("logs", "x", *_NODE), ("invoke", "x", *_NODE)),
    *(("stop", "x", *_NODE), ("start", "x", *_NODE), ("undeploy", "x", *_NODE)),
    ("deploy", "--name", "x", "--wasm", "x.wasm", *_NODE),
    ("run", *_NODE),
    ("empty-vm-typescript", "--vm-id", "x", "--wasm", "x.wasm", *_NODE),
    *(("vms", "list", *_NODE), ("vms", "inspect", "x", *_NODE), ("vms", "console", "x", *_NODE)),
    *(("secret", "set", "x", *_NODE), ("secret", "list", *_NODE)),
    *(("secret", "delete", "x", *_NODE), ("audit", *_NODE)),
    ("start-node", "--node-id", "x"),
    *(("new", "python", "x"), ("build", "x"), ("toolchain", "install", "go")),
    *(("image", "build"), ("image", "list"), ("image", "verify")),
    *(("backup", "x.tar"), ("restore", "x.tar"), ("verify", "x.tar")),
    *(("quota", "set", "vcpus=1", *_NODE), ("quota", "show", *_NODE)),
    *(("tls", "init", "--host", "x"), ("tls", "client", "x"), ("tls", "renew"), ("tls", "show")),
    *(("token", "create", "--name", "x", "--scope", "read", *_NODE), ("token", "list", *_NODE)),
    *(("token", "revoke", "x", *_NODE), ("token", "rotate", "x", *_NODE)),
    *(("login", *_NODE), ("logout", *_NODE), ("whoami", *_NODE)),
    *(("top", "--once", *_NODE), ("trace", "x", *_NODE), ("advise", *_NODE)),
    *(("nodes", "drain", "b", *_NODE), ("nodes", "undrain", "b", *_NODE)),
    *(("nodes", "remove", "b", *_NODE), ("nodes", "token")),
    *(("doctor",), ("config", "show"), ("version",), ("install-service", "--print")),
)


def test_commands_of_the_next_test_are_all_there_are() -> None:
    """A command added later is tested as well."""
    leaves = {path for path in TREE if not any(path == other[:-1] for other in TREE)}
    assert {next(c[:n] for n in (1, 2) if c[:n] in leaves) for c in _EVERY_COMMAND} == leaves


@pytest.mark.parametrize("arguments", _EVERY_COMMAND, ids=lambda words: " ".join(words[:2]))
def test_variable_when_misspelt_then_every_command_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """A setting that would go unnoticed is an error, also where a flag makes it unneeded."""
    monkeypatch.setenv("PLEXSPACES_NODE_ADRESS", "127.0.0.1:1")
    assert command(*arguments) == Ran(
        2,
        b"",
        "error: unknown environment variable 'PLEXSPACES_NODE_ADRESS'\n"
        "hint: the closest known name is PLEXSPACES_NODE_ADDRESS; "
        "`plexspaces config show` lists every setting\n",
    )


@pytest.mark.parametrize(
    "arguments", [("-h",), ("--version",), ("vms", "--help"), ("vms", "list", "--help")]
)
def test_variable_when_misspelt_then_help_comes_all_the_same(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Whoever looks for the right name is not kept from reading."""
    monkeypatch.setenv("PLEXSPACES_NODE_ADRESS", "127.0.0.1:1")
    assert command(*arguments).status == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NODE_PORT", "9100"), ("HTTP_PORT", "9180"), ("NODE_GRACE_S", "3"), ("NODE_ADRESS", "")],
)
def test_variable_when_known_or_empty_then_it_is_no_obstacle(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """What compose.yaml reads, a node's settings, and a variable that is not set disturb nobody."""
    monkeypatch.setenv(f"PLEXSPACES_{variable}", value)
    assert plexspaces("list").status == 0


@pytest.mark.parametrize("cls", PLATFORM_ERRORS)
def test_error_when_from_the_node_then_message_hint_and_status(
    plexspaces: Command, fake_node: FakeNode, cls: type[PlexSpacesError]
) -> None:
    """Whatever the node answers is shown in the same form; what the user did wrong ends with 2."""
    text, hint = "what happened \x1b[31m here", "plexspaces doctor"
    fake_node.fail["List"] = (
        VmStartFailed(text, step="boot", hint=hint)
        if cls is VmStartFailed
        else cls(text, hint=hint)
    )
    ran = plexspaces("list")
    assert ran.status == (2 if cls.code == "invalid_argument" else 1)
    assert ran.stderr == "error: what happened \\x1b[31m here\nhint: plexspaces doctor\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TERM", "xterm", "\x1b[31m\x1b[1merror: \x1b[0mno node answers"),
        ("TERM", "dumb", "error: no node answers"),
        ("NO_COLOR", "1", "error: no node answers"),
    ],
)
def test_error_when_on_a_terminal_then_its_label_is_in_colour_where_that_is_wanted(
    command: Command,
    free_address: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    said: str,
) -> None:
    """NO_COLOR is kept to, and so is a terminal that has none; the text is the same."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert command("list", "--node-address", free_address).status == 1
    assert terminal.getvalue().startswith(said)


def test_command_that_shows_no_progress_when_loaded_then_without_what_draws_it() -> None:
    """Half the time in which a short command is loaded would be spent on what it never shows."""
    code = "import sys, plexspaces_node.cli.{}; print(*sys.modules)"
    for home in ("applications", "show", "vms"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(home)], capture_output=True, text=True, check=True
        )
        assert "plexspaces_node.client" in done.stdout.split()
        assert "rich" not in done.stdout.split()


def test_error_when_of_several_lines_then_they_are_indented(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """A compiler's or an actor's own words stay readable, however long a line is."""
    long = "x" * 300
    fake_node.fail["List"] = ActorFailed(f"init failed\n{long}", code="bad")
    ran = plexspaces("list")
    assert ran.status == 1
    assert ran.stderr == f"error: the actor failed (bad): init failed\n  {long}\n"


@pytest.mark.parametrize(
    ("path", "said"), [("/root/x", "/root/x: Permission"), (None, "cannot write: Permission")]
)
def test_path_when_the_system_refuses_it_then_it_is_named(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch, path: str | None, said: str
) -> None:
    """A fault that no check foresaw tells where it was; without a path it is our own output's."""

    async def refused(_: NodeClient, **_options: object) -> Listing:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(NodeClient, "list", refused)
    assert plexspaces("list") == Ran(1, b"", f"error: {said} denied\n")


def test_command_when_interrupted_then_status_130_and_quiet(
    plexspaces: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is no failure to explain."""

    async def interrupted(_: NodeClient, **_options: object) -> Listing:
        raise KeyboardInterrupt

    monkeypatch.setattr(NodeClient, "list", interrupted)
    assert plexspaces("list") == Ran(130, b"", "")


def test_output_when_its_reader_has_gone_then_quiet(fake_node: FakeNode) -> None:
    """`plexspaces … | head` leaves no traceback, and the status that every program leaves then.

    A process of its own: what is tested happens while the interpreter ends.
    """
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        ran = subprocess.run(
            [sys.executable, "-m", "plexspaces_node.cli.main", "version"],
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert ran.stderr == b""
    assert ran.returncode == 128 + signal.SIGPIPE
