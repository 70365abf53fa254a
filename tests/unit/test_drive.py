"""The artifact's drive: what is on it, and that the longest artifact has room in the slot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.erofs import BLOCK, read_erofs

from plexspaces_node.model import MIB
from plexspaces_node.vm.drive import FILE_NAME, GUEST_PATH, SLOT_BYTES, make_drive


@pytest.mark.parametrize("size", [0, 5000, 3 * MIB])
def test_drive_when_made_holds_the_artifact_alone(tmp_path: Path, size: int) -> None:
    """What is read back is the artifact; nothing else is made, nor the artifact changed."""
    artifact = tmp_path / "actor.cwasm"
    artifact.write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    made = tmp_path / "drive"
    make_drive(artifact, made)
    found = read_erofs(made)
    assert found.keys() == {"/", f"/{FILE_NAME}"}
    assert found[f"/{FILE_NAME}"].content == artifact.read_bytes()
    assert Path(GUEST_PATH).name == FILE_NAME
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.cwasm", "drive"]
    assert made.stat().st_mode & 0o777 == 0o600


def test_drive_lengthened_to_the_slot_is_the_same_file_system(tmp_path: Path) -> None:
    """Every drive looks as long as the slot; what is behind its end is nobody's."""
    artifact, made = tmp_path / "actor.cwasm", tmp_path / "drive"
    artifact.write_bytes(b"compiled")
    make_drive(artifact, made)
    length = made.stat().st_size
    os.truncate(made, SLOT_BYTES)
    assert read_erofs(made)[f"/{FILE_NAME}"].content == b"compiled"
    assert length + 4096 * MIB <= SLOT_BYTES
    assert SLOT_BYTES % BLOCK == 0


def test_drive_when_the_disk_is_full_is_not_there(tmp_path: Path) -> None:
    """A half-made one would be taken for whole."""
    made = tmp_path / "drive"
    artifact = tmp_path / "actor.cwasm"
    artifact.write_bytes(bytes(64))
    made.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        make_drive(artifact, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.cwasm"]
