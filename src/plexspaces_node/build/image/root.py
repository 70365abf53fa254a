"""The root of the guest as a tree of files: the agent, and where it finds the rest mounted."""

from __future__ import annotations

import shutil
from pathlib import Path

AGENT = "plexspaces-agent"
"""Where `agent/init` finds it, relative to the root."""
MOUNT_POINTS = ("artifact", "dev", "proc", "sys")


def make_root(agent: Path, tree: Path) -> None:
    """Make the tree of the guest's root, with the program `agent` in it. Blocks."""
    for name in MOUNT_POINTS:
        (tree / name).mkdir(parents=True)
    shutil.copyfile(agent, tree / AGENT)
    (tree / AGENT).chmod(0o755)
