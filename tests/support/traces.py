"""What a node may not leave behind, looked for where it would lie."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
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


def forms_of(value: bytes) -> dict[str, bytes]:
    """Return how a value can be written down: in clear, in hex, and in base64 at any place."""
    forms = {"clear": value, "hex": value.hex().encode(), "HEX": value.hex().upper().encode()}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + value)
        # Without what depends on the bytes before and behind it.
        forms[f"base64+{offset}"] = encoded[4 if offset else 0 : len(encoded) - 4]
    return forms


def traces_of(value: bytes, *places: Path) -> list[str]:
    """Return in which files below these places a value is, and in which form."""
    files = [path for place in places for path in sorted(place.rglob("*"))]
    return [
        f"{path}: {form}"
        for path in files
        if path.is_file() and not path.is_symlink()
        for form in _forms_in(path, value)
    ]


def processes_with(value: bytes) -> list[str]:
    """Return the arguments, environments and names of processes of this host that have a value."""
    return [
        f"{path}: {form}"
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        for path in (entry / "cmdline", entry / "environ", entry / "comm")
        for form in _forms_in(path, value)
    ]


def memories_with(value: bytes, pid: int) -> list[str]:
    """Return in which files that are memory, as a template's is, a process holds a value."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            is_memory = str(link.readlink()).startswith("/memfd:")
        except OSError:
            continue
        if is_memory:
            found += [f"{link}: {form}" for form in _forms_in(link, value)]
    return found


def _forms_in(path: Path, value: bytes) -> list[str]:
    try:
        content = _content_of(path)
    except OSError:
        # A process that has ended, or is somebody else's.
        return []
    return [name for name, form in forms_of(value).items() if form in content]


def _content_of(path: Path) -> bytes:
    """Return the bytes of a file without its holes: a VM's drive has 8 GiB of them."""
    with path.open("rb") as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        if size == 0:  # as all files of /proc say
            return file.read()
        pieces = []
        end = 0
        while end < size:
            try:
                begin = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole
                    break
                raise
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
            file.seek(begin)
            pieces.append(file.read(end - begin))
        return b"\0".join(pieces)
