"""The drive that carries an artifact into a microVM: a small read-only ext4 file system.

A guest maps a file of its file system; it cannot map a raw device, and copying an artifact through
the link takes twenty times as long. Made by mke2fs, which needs no privileges and no mount.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import MIB

FILE_NAME = "artifact.cwasm"
"""What the artifact is called on the drive."""

GUEST_PATH = f"/artifact/{FILE_NAME}"
"""Where the agent in the guest finds it: it mounts the drive at `/artifact`."""

SLOT_BYTES = 8 * 1024 * MIB
"""How long the drive looks to the guest that was booted before it had an artifact."""

_BLOCK_BYTES = 4096
_FEATURES = "^has_journal,^resize_inode,^metadata_csum"
_TIMEOUT_S = 60.0
_SYSTEM_PROGRAMS = "/usr/sbin:/sbin"


def find_mke2fs() -> str | None:
    """Return the path of mke2fs, also where only root has its directory on `PATH`."""
    return shutil.which("mke2fs") or shutil.which("mke2fs", path=_SYSTEM_PROGRAMS)


def make_drive(artifact: Path, drive: Path) -> None:
    """Make the file `drive` anew, for its owner only: an ext4 image that holds the artifact.

    Blocks for a few milliseconds and about 1 ms per MiB. On failure there is no `drive`. Raises
    `Unavailable` when mke2fs is missing or refuses (a full disk), `OSError`.
    """
    mke2fs = find_mke2fs()
    if mke2fs is None:
        raise Unavailable("mke2fs is not installed", hint="apt-get install e2fsprogs")
    try:
        with tempfile.TemporaryDirectory(dir=drive.parent, prefix="drive-") as directory:
            _link_or_copy(artifact, Path(directory, FILE_NAME))
            drive.touch(mode=0o600)
            size = drive_bytes(artifact.stat().st_size)
            _run(drive_command(mke2fs, directory, drive, size), drive)
    except BaseException:
        drive.unlink(missing_ok=True)
        raise


def drive_bytes(artifact_bytes: int) -> int:
    """Return how long a drive for so long an artifact must be: whole blocks and its tables."""
    blocks = -(-artifact_bytes // _BLOCK_BYTES)
    return (blocks + blocks // 64) * _BLOCK_BYTES + MIB


def drive_command(mke2fs: str, directory: str, drive: Path, size: int) -> list[str]:
    """Return the command that makes a file system of `size` bytes from a directory; pure."""
    return [
        mke2fs,
        *("-q", "-F", "-t", "ext4", "-O", _FEATURES, "-m", "0", "-N", "16"),
        *("-b", str(_BLOCK_BYTES), "-E", "root_owner=0:0,nodiscard", "-d", directory),
        *(str(drive), f"{size // 1024}k"),
    ]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # on another file system, or not ours to link
        shutil.copyfile(source, target)


def _run(command: list[str], drive: Path) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"mke2fs did not make {drive} within {_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unavailable(
            f"mke2fs cannot make {drive}: {words[-1] if words else f'status {done.returncode}'}",
            hint=f"see whether there is space: df -h {drive.parent}",
        )
