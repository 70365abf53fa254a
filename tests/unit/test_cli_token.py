"""`token create` and `login`: wrong input, and a node that does not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command

CREATE = ("token", "create", "--name", "ci", "--scope", "read")


@pytest.mark.parametrize("lifetime", ["0", "0s", "0d"])
def test_create_when_it_would_expire_at_once_then_there_is_none(
    command: Command, tmp_path: Path, lifetime: str
) -> None:
    """0 means without an end inside; whoever writes it does not mean that."""
    refused = command(*CREATE, "--data-dir", tmp_path / "data", "--expires", lifetime)
    assert (refused.status, refused.stdout) == (2, b"")
    assert "hint: at least 1s" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_create_when_flags_name_a_stopped_node_then_the_token_is_that_nodes(
    command: Command, tmp_path: Path
) -> None:
    """What a node that refuses to start without a token says."""
    data_dir = tmp_path / "data"
    made = command(*CREATE, "--node-id", "n1", "--data-dir", data_dir)
    assert made.status == 0, made
    assert made.text.startswith("plx_")
    assert f"using its data directory {data_dir}" in made.stderr
    assert (data_dir / "node-id").read_text().strip() == "n1"
    again = command(*CREATE, "--node-id", "n1", "--data-dir", data_dir)
    assert again.status == 1
    assert "there is a token 'ci'" in again.stderr


def test_login_when_stdin_is_empty_then_it_says_that_there_is_no_token(command: Command) -> None:
    """As a pipe from a command that failed."""
    refused = command("login", "--node-address", "127.0.0.1:1")
    assert refused.status == 2
    assert "error: no token was given\n" in refused.stderr
