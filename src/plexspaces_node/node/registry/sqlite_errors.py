"""SQLite's errors in the words of this product, and what to do about a damaged file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    PlexSpacesError,
    Unavailable,
    WrongState,
    quoted,
)
from plexspaces_node.node.disk import DiskFull


class Damaged(WrongState):
    """The file's content is not what was written."""


def translated(error: sqlite3.Error, path: Path) -> PlexSpacesError:
    """Return the platform's error for an error of SQLite about the file at a path."""
    # The low byte of the code is its class; the rest says where it happened.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error))
        case sqlite3.SQLITE_FULL:
            return DiskFull(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"another program is using {path}", hint=f"fuser {quoted(path)}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return InvalidArgument(
                f"{path} cannot be written: {error}",
                hint="choose a writable directory with --data-dir",
            )
        case sqlite3.SQLITE_IOERR if not os.statvfs(path.parent).f_bavail:
            return DiskFull(path)
        case sqlite3.SQLITE_IOERR:
            return Unavailable(f"disk error in {path}: {error}", hint="dmesg")
    return Internal(f"SQLite failed on {path}: {error}")


def damaged(path: Path, reason: str) -> Damaged:
    """Return the error for a damaged file."""
    return Damaged(f"{path} is damaged: {reason}", hint=how_to_restore(path.parent))


def how_to_restore(data_dir: Path) -> str:
    """Return the hint for a damaged data directory."""
    away = f"mv {quoted(data_dir)} {quoted(f'{data_dir}.damaged')}"
    return f"stop the node, {away}, then plexspaces restore BACKUP --data-dir {quoted(data_dir)}"
