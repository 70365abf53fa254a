"""`install-service`: what it writes, what it prints, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    """Everything that is written is in a directory of the test, and no user is created."""
    config, units = tmp_path / "etc" / "release.toml", tmp_path / "units"
    return ("install-service", "--config", str(config), "--dir", str(units))


def test_install_when_nothing_is_there_then_written_and_the_next_commands_told(
    command: Command, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The user is created only for a unit of this host."""
    ran = command(*flags, "--user", "no-such-user")
    assert ran.status == 0
    unit = tmp_path / "units" / "plexspaces.service"
    assert f"✓ Wrote {tmp_path}/etc/release.toml\n✓ Wrote {unit}\n  Exposure: " in ran.text
    assert "  useradd --system " in ran.text
    assert f"  cp {unit} /etc/systemd/system\n" in ran.text
    assert ran.text.endswith("  systemctl enable --now plexspaces.service\n")
    assert "User=no-such-user\n" in unit.read_text()
    assert "is up to date" in command(*flags, "--user", "no-such-user").text


def test_install_when_the_unit_differs_then_the_change_is_shown_and_not_made(
    command: Command, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """--force makes it."""
    unit = tmp_path / "units" / "plexspaces.service"
    command(*flags, "--user", "root")
    unit.write_text(unit.read_text() + "Nice=5\n")
    ran = command(*flags, "--user", "root")
    assert ran.status == 1
    assert "-Nice=5\n" in ran.text
    assert "exists and is different" in ran.stderr
    assert "--force" in ran.stderr
    assert "Nice=5" in unit.read_text()
    assert command(*flags, "--user", "root", "--force").status == 0
    assert "Nice=5" not in unit.read_text()


def test_install_when_only_printing_then_nothing_is_written(
    command: Command, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """Stdout is the unit alone."""
    ran = command(*flags, "--print")
    assert ran.status == 0
    assert ran.text.startswith("# Written by `plexspaces install-service`")
    assert ran.text.endswith("WantedBy=multi-user.target\n")
    assert "Exposure: " in ran.stderr
    assert list(tmp_path.iterdir()) == []
