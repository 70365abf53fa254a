"""The node's data directory: its layout, and which node holds it.

This module defines the layout, the lock and the stored node id. Whoever is given the paths defines
the content of the files.

    DATA-DIR/
      node.lock     held by the running node: its id and pid
      node-id       the node this directory belongs to
      isolation     the isolation level of the last start
      restoring     there as long as a backup is being restored: what is here is not whole
      registry.db   the truth about applications
      registry.reserve  room on the disk for what makes room on it
      tokens.key    the key of the tokens' hashes; from its first token on a node has it
      node.sock     where the running node serves gRPC to its user and root
      http.sock     where it serves HTTP to them
      artifacts/    WebAssembly files by digest; of a tenant in a directory of its name
      cache/        compiled artifacts, likewise: native code, never from a user
      vms/          one bundle per VM
      logs/         one log per application
      audit/        who did what
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plexspaces_node.errors import InvalidArgument, WrongState, quoted
from plexspaces_node.http_notice import GRPC_SOCKET, HTTP_SOCKET
from plexspaces_node.model import check_name
from plexspaces_node.vm.bundle import check_socket_room, open_plain

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OF_A_FILE_SYSTEM = "lost+found"
_LIMIT_BYTES = 4096
"""The size limit of the files that hold a word."""


class _Holder(msgspec.Struct, frozen=True):
    node_id: str
    pid: int


@dataclass(slots=True)
class DataDirectory:
    """The paths of a data directory, which this process holds if `open` or `held` created it.

    Attributes:
        kept: what `open` created stays, because `keep` was called.
        was_empty: the directory was empty or missing.
    """

    path: Path
    node_id: str
    kept: bool = False
    was_empty: bool = False

    @classmethod
    @contextmanager
    def open(cls, path: Path, node_id: str) -> Iterator[DataDirectory]:
        """Create what is missing, take the directory for this process, release it at the end.

        Every created directory is for its owner only. A directory that was empty or missing is so
        again at the end, unless `keep` was called. Blocks for a few file operations, never for
        another node. Raises `WrongState` if another node holds the directory, `InvalidArgument` if
        it belongs to another node id, if others could write to it, or if it cannot be created or
        written. A lock left by a killed node does not matter.
        """
        with cls.held(path, node_id) as directory:
            directory.lay_out()
            yield directory

    @classmethod
    @contextmanager
    def held(cls, path: Path, node_id: str) -> Iterator[DataDirectory]:
        """Like `open`, but create and change nothing in the directory except its lock."""
        check_name(node_id, what="node id")
        check_socket_room(path.absolute() / "vms")
        directory = cls(path.absolute(), node_id)
        made = _missing(directory.path)
        try:
            with _usable(directory.path):
                _make_private(directory.path, parents=True)
                lock = _take_lock(directory)
            try:
                with _usable(directory.path):
                    # Checked under the lock: until then another node may have used it.
                    names = {entry.name for entry in directory.path.iterdir()}
                    directory.was_empty = names <= {directory.lock.name, _OF_A_FILE_SYSTEM}
                yield directory
            finally:
                if directory.was_empty and not directory.kept:
                    _empty(directory)
                # Otherwise the file stays: removing it would let two nodes lock two files of one
                # name.
                os.close(lock)
        finally:
            if not directory.kept:
                _remove_empty(made)

    def lay_out(self) -> None:
        """Claim the directory for the node and create its subdirectories; raises as `open` does."""
        with _usable(self.path):
            _claim(self)
            for child in (self.artifacts, self.cache, self.vms, self.logs, self.audit):
                _make_private(child)

    def clear(self) -> None:
        """Remove everything but the lock, and the mark of an unfinished restore.

        Raises `InvalidArgument` if something cannot be removed.
        """
        with _usable(self.path):
            for entry in self.path.iterdir():
                if entry in (self.lock, self.unfinished) or entry.name == _OF_A_FILE_SYSTEM:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def keep(self) -> None:
        """Keep what is in the directory when it is released."""
        self.kept = True

    def swap_level(self, level: str) -> str:
        """Store the isolation level for the next start; return the previous one, or "".

        It is only used for a warning, so errors of the disk are ignored. Blocks for two file
        operations.
        """
        before = ""
        with suppress(OSError):
            before = word_in(self.isolation_file)
            self.isolation_file.write_text(f"{level}\n", "utf-8")
        return before

    @property
    def lock(self) -> Path:
        """The file that the running node holds locked."""
        return self.path / "node.lock"

    @property
    def node_id_file(self) -> Path:
        """The file with the id of the node that the directory belongs to."""
        return self.path / "node-id"

    @property
    def isolation_file(self) -> Path:
        """The file with the isolation level of the last start."""
        return self.path / "isolation"

    @property
    def unfinished(self) -> Path:
        """The file that exists while a backup is being restored."""
        return self.path / "restoring"

    @property
    def registry(self) -> Path:
        """The registry's file."""
        return self.path / "registry.db"

    @property
    def artifacts(self) -> Path:
        """The directory of WebAssembly files."""
        return self.path / "artifacts"

    @property
    def cache(self) -> Path:
        """The directory of native code."""
        return self.path / "cache"

    @property
    def vms(self) -> Path:
        """The directory of bundles."""
        return self.path / "vms"

    @property
    def logs(self) -> Path:
        """The directory of application logs."""
        return self.path / "logs"

    @property
    def token_key(self) -> Path:
        """The file with the key of the tokens' hashes."""
        return self.path / "tokens.key"

    @property
    def grpc_socket(self) -> Path:
        """The unix socket on which the running node serves gRPC."""
        return self.path / GRPC_SOCKET

    @property
    def http_socket(self) -> Path:
        """The unix socket on which it serves HTTP."""
        return self.path / HTTP_SOCKET

    @property
    def audit(self) -> Path:
        """The directory of the audit log."""
        return self.path / "audit"


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidArgument(
            f"the data directory {path} cannot be used: {error.strerror} ({error.filename})",
            hint="choose a writable directory: plexspaces start-node --data-dir DIR",
        ) from error


def _missing(path: Path) -> Sequence[Path]:
    """Return the missing directories of a path, the innermost first."""
    return [place for place in (path, *path.parents) if not os.path.exists(place)]


def _empty(directory: DataDirectory) -> None:
    # What cannot be removed stays: the current error says more.
    with suppress(OSError):
        for entry in directory.path.iterdir():
            if entry.name == _OF_A_FILE_SYSTEM:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != directory.lock:
                entry.unlink()
        # Last, so that whoever waits for the directory finds it held, or gone.
        directory.lock.unlink()


def _remove_empty(made: Sequence[Path]) -> None:
    with suppress(OSError):  # somebody else has put something there
        for place in made:
            place.rmdir()


def _make_private(path: Path, *, parents: bool = False) -> None:
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(path)


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"'#{user}'"


def _check_private(path: Path) -> None:
    # It contains native code and sockets: whoever can write here runs code as us.
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidArgument(
            f"{path} is not a directory", hint="choose another with --data-dir DIR"
        )
    if status.st_uid != os.geteuid():
        mend = f"chown {os.geteuid()} {quoted(path)}"
        if os.geteuid() == 0:
            # That of a service, which must not be taken from it.
            mend = f"do it as that user: sudo -u {_name_of(status.st_uid)} plexspaces …"
        raise InvalidArgument(
            f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}",
            hint=f"{mend}, or choose another with --data-dir DIR",
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise InvalidArgument(
            f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 700 {quoted(path)}, or choose another with --data-dir DIR",
        )


def _take_lock(directory: DataDirectory) -> int:
    # flock and not a pid file: the kernel releases it however the node ends.
    lock = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink == 0:
            raise BlockingIOError  # removed by a node that did not start, since it was opened
        os.ftruncate(lock, 0)
        os.pwrite(lock, msgspec.json.encode(_Holder(directory.node_id, os.getpid())), 0)
    except BlockingIOError as error:
        holder = _describe_holder(os.pread(lock, _LIMIT_BYTES, 0))
        os.close(lock)
        raise WrongState(
            f"the data directory {directory.path} is in use by {holder}",
            hint="stop that node first, or give this one another --data-dir",
        ) from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _describe_holder(content: bytes) -> str:
    try:
        holder = msgspec.json.decode(content, type=_Holder)
    except msgspec.DecodeError:
        # Locked by a node that has not written its id yet.
        return "another node"
    return f"node {holder.node_id!r} (pid {holder.pid})"


def _claim(directory: DataDirectory) -> None:
    owner = word_in(directory.node_id_file)
    if not owner:
        _write_whole(directory.node_id_file, directory.node_id + "\n")
    elif owner != directory.node_id:
        raise InvalidArgument(
            f"the data directory {directory.path} belongs to node {owner!r},"
            f" this node is {directory.node_id!r}",
            hint=f"start with --node-id {owner}, or give this node another --data-dir",
        )


def word_in(path: Path) -> str:
    """Return the word in a file of the directory, or "". Blocks.

    Raises `OSError` if it cannot be read.
    """
    with suppress(FileNotFoundError), open_plain(path) as file:
        return file.read(_LIMIT_BYTES).decode("utf-8", "replace").strip()
    return ""


def _write_whole(path: Path, text: str) -> None:
    # By rename, so that a node killed here leaves the old file or the new one, never a part.
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
