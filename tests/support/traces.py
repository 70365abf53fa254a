"""What a node may not leave behind, looked for where it would lie."""

from __future__ import annotations

from pathlib import Path


def agents_of(data_dir: Path) -> list[int]:
    """Return the pids of agents that were started from this data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"plexspaces_node.agent" in arguments and any(
            argument.startswith(bytes(data_dir)) for argument in arguments
        ):
            found.append(int(entry.name))
    return found


def bundles_of(data_dir: Path) -> list[str]:
    """Return the names of the bundles in this data directory."""
    return [entry.name for entry in (data_dir / "vms").iterdir()]


def assert_nothing_left(data_dir: Path) -> None:
    """Fail unless no machine of this data directory is left: process, socket or directory."""
    assert agents_of(data_dir) == []
    assert bundles_of(data_dir) == []
    assert list((data_dir / "artifacts").glob(".*")) == []
