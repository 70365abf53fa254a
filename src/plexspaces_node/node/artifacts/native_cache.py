"""The cache of native code: the compiler's output for artifacts, and its report on each.

    ROOT/<key>.cwasm     native code made by the compiler, never by a user
    ROOT/<key>.json      its report and digest, written last: without it the entry is not valid
    ROOT/<tenant>/...    the same of another tenant than `default`

A key is made from the artifact's digest and the engine's identity, with its tenant before. This
module defines that layout; others run the compiler and decide how long an entry stays. Everything
blocks.

The digest is checked because damaged code could run and do anything. It only protects against
damage: whoever can write here as the node's user can write a report too.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from plexspaces_node.errors import Internal
from plexspaces_node.model import DEFAULT_TENANT, NAME_PATTERN, full_name, split_name
from plexspaces_node.node.artifacts.report import ArtifactReport
from plexspaces_node.node.artifacts.upload import TEMPORARY
from plexspaces_node.node.disk import clear, is_whole, lay_out, room_of, sync, using_disk

_log = logging.getLogger(__name__)

_NOTE_BYTES = 4096
"""The maximum size of a report, which usually has a few hundred bytes."""


class Entry(msgspec.Struct, frozen=True):
    """The record beside native code."""

    engine: str
    size_bytes: int
    sha256: str
    report: ArtifactReport

    @property
    def room_bytes(self) -> int:
        """The disk space of code and report."""
        return room_of(self.size_bytes) + _NOTE_BYTES


class NativeCache:
    """The native code for one engine in one directory."""

    def __init__(self, directory: Path, engine: str) -> None:
        self.directory = directory
        self._engine = engine
        self._numbers = itertools.count()
        # The code that was found intact, by key.
        self._whole: dict[str, tuple[int, int, int]] = {}

    def __repr__(self) -> str:
        return f"<NativeCache {self.directory}>"

    def key(self, name: str) -> str:
        """Return the key of an artifact's native code. Does not block."""
        tenant, digest = split_name(name)
        return full_name(tenant, hashlib.sha256(f"{digest}\n{self._engine}".encode()).hexdigest())

    def code(self, key: str) -> Path:
        """Return the path of the native code, existing or not. Does not block."""
        return self.directory / f"{key}.cwasm"

    def scratch(self) -> Path:
        """Return a new name for the compiler's output. Does not block."""
        return self.directory / f"{TEMPORARY}{next(self._numbers)}.cwasm"

    def prune(self) -> Iterator[tuple[str, Entry, float]]:
        """Remove invalid entries, as after a crash; yield key, entry and time of the others."""
        for tenant, place in places(self.directory):
            for path in list(place.iterdir()):
                if path.is_dir():
                    continue
                code, note = path.with_suffix(".cwasm"), path.with_suffix(".json")
                entry = _read(note)
                if entry is None or entry.engine != self._engine or not code.exists():
                    clear(note)
                    clear(code)
                elif path == note:
                    yield full_name(tenant, code.stem), entry, code.stat().st_mtime

    def find(self, key: str) -> Entry | None:
        """Return a valid entry, or None; an invalid one is removed.

        The code is read and compared with its digest the first time, and again after the file has
        changed. Only one call at a time for a key, and none concurrent with `keep`.
        """
        code = self.code(key)
        entry = _read(code.with_suffix(".json"))
        try:
            if entry is None or self._is_valid(key, entry):
                return entry
        except FileNotFoundError:
            return None
        _log.warning("native code %s is corrupt: removed", code)
        clear(code.with_suffix(".json"))
        clear(code)
        return None

    def _is_valid(self, key: str, entry: Entry) -> bool:
        code = self.code(key)
        status = code.stat()
        # It will run as native code, so it must be complete and written by this user.
        trusted = status.st_uid == os.geteuid() and not status.st_mode & (
            stat.S_IWGRP | stat.S_IWOTH
        )
        if not trusted or status.st_size != entry.size_bytes:
            return False
        if self._whole.get(key) != _version(status):
            if not is_whole(code, entry.sha256):
                return False
            self._whole[key] = _version(status)
        return True

    def keep(self, output: Path, key: str, report: ArtifactReport) -> Entry:
        """Turn the compiler's output file into an entry; on failure there is none.

        Raises `ResourceExhausted` if the disk is full.
        """
        code, draft = self.code(key), output.with_suffix(".json")
        with using_disk(self.directory):
            try:
                with output.open("rb") as made:
                    sha256 = hashlib.file_digest(made, "sha256").hexdigest()
                    status = os.fstat(made.fileno())
            except FileNotFoundError as error:
                raise Internal("the compiler reported success but wrote nothing") from error
            entry = Entry(self._engine, status.st_size, sha256, report)
            try:
                output.chmod(0o600)
                sync(output)
                lay_out(code.parent)
                # Everything that needs space comes before anything appears under its name.
                draft.touch(mode=0o600)
                draft.write_bytes(msgspec.json.encode(entry))
                sync(draft)
                output.replace(code)
                # The report makes the entry valid, so it must not reach the disk before the code.
                sync(code.parent)
                draft.replace(code.with_suffix(".json"))
                self._whole[key] = _version(status)
            except OSError:
                self.remove(key)
                raise
            finally:
                draft.unlink(missing_ok=True)
        return entry

    def remove(self, key: str) -> None:
        """Remove an entry; the report first, so that after a crash the rest is not valid."""
        code = self.code(key)
        self._whole.pop(key, None)
        code.with_suffix(".json").unlink(missing_ok=True)
        code.unlink(missing_ok=True)


def places(directory: Path) -> list[tuple[str, Path]]:
    """Return where each tenant's files are: directly here, or in a directory of its name.

    Of those that are left empty nothing stays. Blocks.
    """
    found = [(DEFAULT_TENANT, directory)]
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink() and NAME_PATTERN.fullmatch(path.name):
            try:
                path.rmdir()
            except OSError:
                found.append((path.name, path))
    return found


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(note: Path) -> Entry | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=Entry)
    except (OSError, msgspec.DecodeError):
        return None
