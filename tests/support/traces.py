"""What a node may not leave behind, looked for where it would lie."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.patience import patient


def agents_of(data_dir: Path) -> list[int]:
    """Return the pids of what runs machines of this data directory: agents, or their VMMs."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(
            argument.startswith(bytes(data_dir)) and argument.endswith(b"/link.sock")
            for argument in arguments
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


async def ended(data_dir: Path) -> None:
    """Wait until no agent of a data directory runs any more, as after its node was killed."""
    async with asyncio.timeout(patient(20)):
        while agents_of(data_dir):
            await asyncio.sleep(0.01)
