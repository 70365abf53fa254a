"""What the isolation levels cost on this host, in a file between two programs.

`plexspaces advise --measure` writes it, and a node reads it for its advice. A user has a file for
each host, because a home directory may be on several. Only what the program measured itself is in
it; a file that cannot be read is none.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from plexspaces_node import xdg
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import LEVELS
from plexspaces_node.private_file import make_private_directory

_LARGEST_BYTES = 64 * 1024
_LONGEST_NS = 3600 * 1_000_000_000


class LevelFigures(msgspec.Struct, frozen=True):
    """What one level costs, by a probe that was deployed at it; medians.

    Attributes:
        link_ns: for passing a message of a few bytes, in either direction together.
        compute_ns: for a piece of work that is the same at every level.
        vm_ns, load_ns: for starting a VM, and for loading the probe into it.
        messages, starts: of how many these are the medians.
        emulated: its VMs were emulated, because there is no KVM.
        version: of the program that measured.
    """

    level: str
    link_ns: int
    compute_ns: int
    vm_ns: int
    load_ns: int
    messages: int
    starts: int
    measured_unix_ns: int
    version: str
    emulated: bool = False


def default_path(variables: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of this user on this host; None for a user without a home directory."""
    data = xdg.directory(xdg.DATA, variables)
    if data is None:
        return None
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]
    return data / "plexspaces" / "levels" / f"{host}.json"


def read(path: Path | None) -> dict[str, LevelFigures]:
    """Return the figures of each level that was measured. Blocks for one small read."""
    if path is None:
        return {}
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            found = msgspec.json.decode(file.read(_LARGEST_BYTES), type=list[LevelFigures])
    except (OSError, msgspec.MsgspecError):
        return {}
    return {one.level: one for one in found if _is_plausible(one)}


def write(path: Path, figures: Iterable[LevelFigures]) -> None:
    """Put figures in the place of earlier ones of the same levels; keep those of others. Blocks.

    Raises `InvalidArgument` if the file cannot be written.
    """
    known = read(path) | {one.level: one for one in figures}
    make_private_directory(path.parent)
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            file.write(msgspec.json.encode(list(known.values())))
        # By rename, so that a node reads the old file or the new one.
        os.replace(file.name, path)
    except OSError as error:
        with suppress(OSError, UnboundLocalError):
            os.unlink(file.name)
        raise InvalidArgument(
            f"{path} cannot be written: {error.strerror}",
            hint="set XDG_DATA_HOME to a directory you can write to",
        ) from error


def _is_plausible(one: LevelFigures) -> bool:
    times = (one.link_ns, one.compute_ns, one.vm_ns, one.load_ns)
    return one.level in LEVELS and all(0 < each <= _LONGEST_NS for each in times)
