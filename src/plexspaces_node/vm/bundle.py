"""The bundle: the directory with everything that a VM has on disk.

Each VM has one directory, created before anything else of it and removed last. It holds the VM's
configuration, its handle once it runs, its link socket, its console log and the artifact attached
to it. This module defines that layout and the format of the handle; the driver defines what a
handle's state means.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unavailable,
    WrongState,
    quoted,
)
from plexspaces_node.model import NAME_PATTERN, VmConfig, check_name

SOCKET_PATH_LIMIT_BYTES = 107
"""The length of `sockaddr_un.sun_path` on Linux, without its closing NUL."""

_CONFIG = "config.json"
_HANDLE = "handle.json"
_TAIL_BYTES = 4096
_RECORD_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class VmHandle:
    """The stored record by which a restarted node finds a VM again.

    Attributes:
        driver: name of the driver that started it.
        version: version of the layout of `state`, defined by the driver.
        vm_id: the VM's id, also the name of its bundle.
        state: the driver's own values (JSON only), for example the pid and its start time.
    """

    driver: str
    version: int
    vm_id: str
    state: Mapping[str, str | int] = field(default_factory=dict)


def new_vm_id() -> str:
    """Return an id that no other VM is likely to have: `vm-` and 8 hexadecimal digits."""
    return f"vm-{secrets.token_hex(4)}"


class Bundle:
    """One VM's directory. Methods block for short file operations; none keeps a file open.

    Two objects with the same path are the same bundle. `remove` can delete the directory at any
    time; the paths stay valid as names.
    """

    __slots__ = ("_made", "path")

    def __init__(self, path: Path) -> None:
        """Name a bundle without checking that it exists; `path` is absolute."""
        self.path = path
        # Written once and never changed: a start reads it four times.
        self._made: Mapping[str, Any] | None = None

    @classmethod
    def create(cls, root: Path, vm_id: str, config: VmConfig, *, application: str = "") -> Bundle:
        """Create the directory `root`/`vm_id`, for its owner only, with its configuration in it.

        `application` is the name of the owner, "" for an empty VM. Raises `AlreadyExists` if the
        directory exists, `InvalidArgument` for an invalid id or a path too long for a unix socket,
        `Unavailable` if the disk refuses. On failure nothing is left.
        """
        check_name(vm_id, what="VM id")
        bundle = cls(root.resolve() / vm_id)
        bundle._check_socket_path()
        bundle._make_directory()
        record = {"vm_id": vm_id, **asdict(config), "application": application}
        try:
            _write_atomically(bundle.path / _CONFIG, record)
        except OSError as error:
            bundle.remove()
            raise _refused(bundle.path, error) from error
        bundle._made = record
        return bundle

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Return the bundle at `path`, complete or not; raises `NotFound` if there is none."""
        path = path.resolve()
        if not path.is_dir():
            raise NotFound(f"no bundle at {path}")
        return cls(path)

    @property
    def vm_id(self) -> str:
        """The VM's id."""
        return self.path.name

    @property
    def link_socket(self) -> Path:
        """The unix socket of the link between node and agent."""
        return self.path / "link.sock"

    @property
    def console_log(self) -> Path:
        """The machine's own output, not its actor's."""
        return self.path / "console.log"

    @property
    def artifact(self) -> Path:
        """The native code, once it is attached."""
        return self.path / "artifact.cwasm"

    @property
    def config(self) -> VmConfig:
        """The VM's size; raises `NotFound` for an incomplete bundle."""
        record = self._record()
        try:
            return VmConfig(vcpus=record["vcpus"], memory_mib=record["memory_mib"])
        except (KeyError, TypeError, InvalidArgument) as error:
            raise NotFound(f"bundle {self.path} has no valid configuration") from error

    @property
    def application(self) -> str:
        """The owner's name or ""; raises `NotFound` for an incomplete bundle."""
        return str(self._record().get("application", ""))

    def write_handle(self, handle: VmHandle) -> None:
        """Store the handle atomically; raises `OSError`.

        The next node reads it if this one is killed. It need not survive a crash of the host,
        because then no VM runs that it could name.
        """
        _write_atomically(self.path / _HANDLE, {**asdict(handle), "state": dict(handle.state)})

    def read_handle(self) -> VmHandle | None:
        """Return the stored handle; None if there is none or it cannot be read."""
        record = _read_object(self.path / _HANDLE)
        if record is None or set(record) != {"driver", "version", "vm_id", "state"}:
            return None
        handle = VmHandle(**record)
        sound = (
            isinstance(handle.driver, str)
            and type(handle.version) is int
            and handle.vm_id == self.vm_id
            and isinstance(handle.state, dict)
            and all(isinstance(value, str | int) for value in handle.state.values())
        )
        return handle if sound else None

    def attach(self, file: Path) -> Path:
        """Make `file` the bundle's artifact, by a hard link or a copy; return its path here.

        Raises `WrongState` if there is one already, `NotFound` if the file does not exist, and
        `OSError` if the disk is full. On failure nothing new is left.
        """
        if not file.is_file():
            raise NotFound(f"no file {file} to attach to VM {self.vm_id}")
        copy = self.artifact.with_suffix(".new")
        try:
            try:
                # Resolved, because link(2) would link the symbolic link itself.
                os.link(file.resolve(), self.artifact)
            except FileExistsError:
                raise
            except OSError:  # on another file system, or not ours to link
                shutil.copyfile(file, copy)
                os.link(copy, self.artifact)
        except FileExistsError as error:
            raise WrongState(
                f"VM {self.vm_id} already has a file attached", hint="start another VM for it"
            ) from error
        finally:
            copy.unlink(missing_ok=True)
        return self.artifact

    def console_tail(self, lines: int = 5) -> str:
        """Return the last lines of the console log that are not blank, or ""."""
        try:
            with open_plain(self.console_log) as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])

    def remove(self) -> None:
        """Remove the directory and everything in it, if it exists; raises `Unavailable`."""
        try:
            # Again if files inside disappeared or appeared meanwhile.
            while self.path.exists():
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.path)
        except OSError as error:
            raise Unavailable(
                f"cannot remove bundle {self.path}: {error.strerror or error}",
                hint=f"see what is in it: ls -la {quoted(self.path)}",
            ) from error

    def _record(self) -> Mapping[str, Any]:
        record = self._made or _read_object(self.path / _CONFIG)
        if record is None:
            raise NotFound(f"bundle {self.path} is incomplete: no readable {_CONFIG}")
        return record

    def _make_directory(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExists(
                f"VM {self.vm_id} already has a bundle at {self.path}",
                hint="choose another id; `plexspaces list` shows those in use",
            ) from error
        except OSError as error:
            raise _refused(self.path, error) from error

    def _check_socket_path(self) -> None:
        check_socket_room(self.path.parent, self.vm_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundle) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"


def check_socket_room(root: Path, vm_id: str = "vm-00000000") -> None:
    """Raise `InvalidArgument` if paths of sockets below `root` would be too long."""
    socket = Bundle(root / vm_id).link_socket
    length = len(os.fsencode(socket))
    if length > SOCKET_PATH_LIMIT_BYTES:
        raise InvalidArgument(
            f"the socket path {socket} has {length} bytes, "
            f"{length - SOCKET_PATH_LIMIT_BYTES} more than a Unix socket allows",
            hint="start the node with a shorter data directory: --data-dir DIR",
        )


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading; raises `OSError` without blocking for anything else."""
    # O_NONBLOCK: opening a pipe that somebody put there must not wait for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    file = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return os.fdopen(file, "rb")


def bundles(root: Path) -> Iterator[Bundle]:
    """Yield every bundle below `root` by name, complete or not; none without `root`."""
    try:
        paths = sorted(root.resolve().iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        if NAME_PATTERN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield Bundle(path)


def _write_atomically(path: Path, record: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(record, file)
    temporary.replace(path)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        with open_plain(path) as file:
            record = json.loads(file.read(_RECORD_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _refused(path: Path, error: OSError) -> Unavailable:
    shown = quoted(path.parent)
    return Unavailable(
        f"cannot create bundle {path}: {error.strerror or error}",
        hint=f"check space and permissions: df -h {shown}; ls -ld {shown}",
    )
