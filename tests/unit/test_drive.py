"""The artifact's drive: its size, its command, and a real one read back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import MIB
from plexspaces_node.vm import drive
from plexspaces_node.vm.drive import SLOT_BYTES, drive_bytes, drive_command, find_mke2fs, make_drive

needs_mke2fs = pytest.mark.skipif(find_mke2fs() is None, reason="mke2fs is not installed")


def test_command_makes_a_file_system_of_a_directory_without_journal() -> None:
    """The whole vector, so that any change of it is a change of this test."""
    assert drive_command("/sbin/mke2fs", "/b/drive-1", Path("/b/drive.ext4"), 2 * MIB) == [
        "/sbin/mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal,^resize_inode,^metadata_csum",
        "-m",
        "0",
        "-N",
        "16",
        "-b",
        "4096",
        "-E",
        "root_owner=0:0,nodiscard",
        "-d",
        "/b/drive-1",
        "/b/drive.ext4",
        "2048k",
    ]


@pytest.mark.parametrize("size", [0, 1, 4096, 10 * MIB, 4096 * MIB])
def test_drive_is_whole_blocks_longer_than_its_artifact_and_fits_the_slot(size: int) -> None:
    """There is room for the tables, and little more."""
    length = drive_bytes(size)
    assert length % 4096 == 0
    assert size + MIB <= length <= size * 1.02 + 2 * MIB
    assert length <= SLOT_BYTES


@needs_mke2fs
@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB, 40 * MIB])
def test_drive_when_made_holds_the_artifact_alone(tmp_path: Path, size: int) -> None:
    """What is read back is the artifact; nothing else is made, nor the artifact changed."""
    artifact = tmp_path / "actor.cwasm"
    artifact.write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    made = tmp_path / "drive.ext4"
    make_drive(artifact, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.cwasm", "drive.ext4"]
    assert made.stat().st_mode & 0o777 == 0o600
    debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
    if debugfs is not None:
        command = [debugfs, "-R", "cat /artifact.cwasm", str(made)]
        read = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
        assert read == artifact.read_bytes()


def test_drive_when_mke2fs_is_missing_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without the tool is told what to install, and has no half-made drive."""
    monkeypatch.setattr(drive, "find_mke2fs", lambda: None)
    with pytest.raises(Unavailable, match="not installed") as caught:
        make_drive(tmp_path / "actor.cwasm", tmp_path / "drive.ext4")
    assert caught.value.hint == "apt-get install e2fsprogs"


def test_drive_when_mke2fs_refuses_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, for example, leaves neither a drive nor its source directory."""
    broken = tmp_path / "mke2fs"
    broken.write_text("#!/bin/sh\necho mke2fs: No space left on device >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(drive, "find_mke2fs", lambda: str(broken))
    artifact = tmp_path / "actor.cwasm"
    artifact.write_bytes(b"code")
    with pytest.raises(Unavailable, match="No space left") as caught:
        make_drive(artifact, tmp_path / "drive.ext4")
    assert "df -h" in (caught.value.hint or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.cwasm", "mke2fs"]
