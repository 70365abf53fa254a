"""`plexspaces toolchain install` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command


def test_install_of_typescript_says_where_it_is(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place goes to stdout, what is going on to stderr."""
    for name in ("node", "npm"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))

    ran = command("toolchain", "install", "typescript")

    assert ran.status == 0, ran.stderr
    place = tmp_path / ".local/share/plexspaces/toolchains"
    assert ran.text.startswith(f"✓ Installed the typescript toolchain in {place}/typescript-")
    assert "installing esbuild, tsc and componentize-qjs" in ran.stderr


@pytest.mark.parametrize(
    ("language", "hint"),
    [
        ("python", "pip install 'plexspaces-node[build-python]'"),
        ("cobol", "choose one of"),
    ],
)
def test_install_of_another_language_says_how(command: Command, language: str, hint: str) -> None:
    """A language that comes another way is refused with that way."""
    ran = command("toolchain", "install", language)

    assert (ran.status, ran.stdout) == (2, b"")
    assert hint in ran.stderr
