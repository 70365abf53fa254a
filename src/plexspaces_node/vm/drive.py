"""The drive that carries an artifact into a microVM: a small read-only file system.

A guest maps a file of its file system; it cannot map a raw device, and copying an artifact through
the link takes twenty times as long.
"""

from __future__ import annotations

from pathlib import Path

from plexspaces_node.model import MIB
from plexspaces_node.vm.erofs import write_erofs

DRIVE = "drive.erofs"
"""The drive's file name in a VM's bundle."""

FILE_NAME = "artifact.cwasm"
"""The artifact's file name on the drive."""

GUEST_PATH = f"/artifact/{FILE_NAME}"
"""Where the agent in the guest finds the artifact: it mounts the drive at `/artifact`."""

SLOT_BYTES = 8 * 1024 * MIB
"""The size of the drive for a guest that was booted before it had an artifact."""


def make_drive(artifact: Path, drive: Path) -> None:
    """Create the file `drive`, for its owner only: a file system that holds the artifact.

    Blocks for at most about 1 ms per MiB. On failure there is no `drive`. Raises `OSError`.
    """
    write_erofs(drive, {FILE_NAME: artifact})
