"""`plexspaces new` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from support.command import Command, Ran

from plexspaces_node.cli import build as building
from plexspaces_node.cli.options import complete_isolation, complete_language
from plexspaces_node.model import Language
from plexspaces_node.settings import Isolation

LONG = "x" * 300
"""A name for which every look at the file system is an error."""


@pytest.mark.parametrize(
    ("arguments", "path", "steps"),
    [
        (("hello",), "hello", ["cd hello", "plexspaces build", "plexspaces deploy ."]),
        (
            ("hello", "--dir", "my apps"),
            "my apps",
            ["cd 'my apps'", "plexspaces build", "plexspaces deploy ."],
        ),
        (("hello", "--dir", "."), ".", ["plexspaces build", "plexspaces deploy ."]),
    ],
)
def test_new_when_made_then_the_next_commands_are_shown(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], path: str, steps: list[str]
) -> None:
    """What to type next works as it stands, wherever the project was put."""
    ran = command("new", "python", *arguments)
    assert (ran.status, ran.stderr) == (0, "")
    lines = ran.text.splitlines()
    assert lines[:2] == [f"✓ Created hello (python) in {(tmp_path / path).resolve()}", "Next:"]
    assert [line.strip() for line in lines[2:-1]] == steps
    assert (tmp_path / path / "app.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("cobol", "hello"), 2, "unknown language 'cobol'"),
        (("unknown", "hello"), 2, "unknown language 'unknown'"),
        (("", "hello"), 2, "unknown language ''"),
        (("python", "Hello"), 2, "project name 'Hello' is not valid"),
        (("python", "hello", "--dir", "full"), 1, "is not empty"),
        (("python",), 2, "NAME"),
        (("python", "hello", "--dir", f"{LONG}/x"), 2, f"{LONG}/x cannot be written: File name"),
    ],
)
def test_new_when_it_cannot_be_then_nothing_is_made(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """A mistake is named, and leaves no file."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    ran = command("new", *arguments)
    assert (ran.status, ran.stdout) == (status, b"")
    assert said in ran.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "note"]


def test_build_when_the_output_cannot_be_looked_at_then_status_2_names_it(
    command: Command, tmp_path: Path
) -> None:
    """The place that was given is in the error, and how to give another."""
    (tmp_path / "app.py").touch()
    ran = command("build", ".", "-o", f"{LONG}/x.wasm")
    assert (ran.status, ran.stdout) == (2, b"")
    assert (
        f"{LONG}/x.wasm cannot be written: File name too long\nhint: choose another" in ran.stderr
    )


@pytest.mark.parametrize(
    "arguments", [("build",), ("deploy",), ("deploy", "--name", "x", "--wasm")]
)
def test_input_when_it_cannot_be_looked_at_then_status_2_names_it(
    command: Command, arguments: tuple[str, ...]
) -> None:
    """The same fault has the same form wherever it is met."""
    ran = command(*arguments, f"{LONG}/x")
    assert (ran.status, ran.stdout) == (2, b"")
    assert ran.stderr == f"error: '{LONG}/x' cannot be read: File name too long\n"


def test_build_when_interrupted_then_one_line_and_status_130(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst of it leaves a word and no traceback."""

    async def build(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "build_project", build)
    assert command("build", tmp_path) == Ran(130, b"", "interrupted: the build is incomplete\n")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("plexspaces new py", b"python\n"),
        ("plexspaces deploy --language py", b"python\n"),
        ("plexspaces start-node --isolation pro", b"process\n"),
    ],
)
def test_completion_when_one_of_a_few_words_is_wanted_then_it_is_known(
    command: Command, monkeypatch: pytest.MonkeyPatch, typed: str, answer: bytes
) -> None:
    """A shell that asks is told, by the text that was typed so far."""
    monkeypatch.setenv("_PLEXSPACES_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert command() == Ran(0, answer, "")


def test_completion_when_compared_with_the_product_then_it_knows_every_word() -> None:
    """A level or language added later is completed as well."""
    assert complete_isolation("") == list(get_args(Isolation))
    assert {*complete_language(""), Language.UNKNOWN} == set(Language)
