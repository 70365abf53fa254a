"""`plexspaces new` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command


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
        (("cobol", "hello"), 2, "language 'cobol' is not known"),
        (("unknown", "hello"), 2, "language 'unknown' is not known"),
        (("", "hello"), 2, "language '' is not known"),
        (("python", "Hello"), 2, "project name 'Hello' is not valid"),
        (("python", "hello", "--dir", "full"), 1, "is not empty"),
        (("python",), 2, "NAME"),
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
