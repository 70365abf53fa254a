"""An application's log: what its actor logged and wrote, kept on disk within a limit.

This module defines the files of one log, `NAME.log` and the older `NAME.log.1`, with one JSON
object per line; outside of the tenant `default`, `TENANT~NAME.log`. It does not know where lines
come from. They come from guests, so neither their number nor their length is trusted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from time import time_ns
from typing import Self

import msgspec

from plexspaces_node.errors import InvalidArgument, ResourceExhausted
from plexspaces_node.info import LogLine
from plexspaces_node.model import MIB, TRACE_ID_PATTERN, file_name

_log = logging.getLogger(__name__)

MESSAGE_LIMIT_BYTES = 16 * 1024
"""The longest message kept completely, in bytes of UTF-8; a longer one is cut and marked.

Less in a log of under 200 kB, so that the longest line always fits into half of it.
"""

MIN_LIMIT_BYTES = 4096
"""The smallest limit of a log."""

PENDING_LIMIT_BYTES = 1 * MIB
"""Lines not yet on disk, or not yet read by a follower; more are dropped and counted."""

MAX_FOLLOWERS = 16
"""The maximum number of followers of one log."""

_MAX_TIME_NS = 2**63 - 1
_WORD_LIMIT_BYTES = 16
# The most that a line has beside its message, and the longest form of one byte in JSON.
_LINE_OVERHEAD_BYTES = 512
_ESCAPE_GROWTH = 6


class _Kept(msgspec.Struct, omit_defaults=True):
    """A `LogLine` as it is on disk: what most lines do not have takes no room."""

    time_unix_ns: int
    stream: str
    level: str
    message: str
    trace_id: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(LogLine)


def remove_all_but(directory: Path, names: Collection[str]) -> None:
    """Remove the logs of all applications but those with these full names.

    A log that cannot be removed stays, with a warning. Blocks.
    """
    kept = {file_name(name) for name in names}
    for path in sorted(directory.glob("*.log*")):
        name, _, rest = path.name.partition(".log")
        if name not in kept and rest in ("", ".1"):
            try:
                path.unlink()
            except OSError as error:
                _log.warning(
                    "cannot remove %s, which belongs to no application: %s", path, error.strerror
                )


class _Backlog:
    """Encoded lines that wait to be read; bounded, and reports what it had to drop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._dropped = 0
        self._dropped_ns = 0

    def __bool__(self) -> bool:
        return bool(self._lines or self._dropped)

    @property
    def count(self) -> int:
        return len(self._lines) + self._dropped

    def push(self, line: bytes, time_unix_ns: int) -> None:
        # Once something was dropped, everything that follows is too, until the lines are read: so
        # the notice is exactly where lines are missing.
        if self._dropped or self._size_bytes + len(line) > self._limit_bytes:
            self.drop(1, time_unix_ns)
            return
        self._lines.append(line)
        self._size_bytes += len(line)

    def drop(self, count: int, time_unix_ns: int) -> None:
        self._dropped += count
        self._dropped_ns = time_unix_ns

    def lines(self) -> list[bytes]:
        if not self._dropped:
            return list(self._lines)
        noun = "line" if self._dropped == 1 else "lines"
        notice = LogLine(self._dropped_ns, "node", "warn", f"{self._dropped} {noun} dropped")
        return [*self._lines, _encode(notice)]

    def lose(self, batch: _Backlog, written: int) -> None:
        """Count the lines of `batch` after its first `written` ones as lost."""
        self.drop(batch.count - written, batch._dropped_ns)


class _Follower:
    def __init__(self, limit_bytes: int, trace_id: str) -> None:
        self._limit_bytes = limit_bytes
        self._trace_id = trace_id
        self.backlog = _Backlog(limit_bytes)
        self.wake = asyncio.Event()

    def push(self, line: bytes, record: LogLine) -> None:
        if self._trace_id in ("", record.trace_id):
            self.backlog.push(line, record.time_unix_ns)
            self.wake.set()

    def take(self) -> list[bytes]:
        taken, self.backlog = self.backlog, _Backlog(self._limit_bytes)
        return taken.lines()


class ApplicationLog:
    """The log of one application. Used from one event loop; opens its file only to write or read.

    Never holds more than `pending_bytes` in memory, twice that for each follower, and never more
    than `limit_bytes` on disk: of two halves the older is deleted when the newer is full. Readers
    skip a line that a crash or a full disk cut short. The directory of `path` must exist; the files
    are created at the first write, readable by their owner only.
    """

    def __init__(
        self, path: Path, limit_bytes: int, *, pending_bytes: int = PENDING_LIMIT_BYTES
    ) -> None:
        if limit_bytes < MIN_LIMIT_BYTES:
            raise InvalidArgument(
                f"a log limit of {limit_bytes} bytes is too small",
                hint=f"allow at least {MIN_LIMIT_BYTES} bytes",
            )
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._half = limit_bytes // 2
        self._message_limit = _message_limit(self._half)
        self._pending_bytes = pending_bytes
        self._pending = _Backlog(pending_bytes)
        self._followers: set[_Follower] = set()
        # Held while a thread works on the files, so that a reader sees complete lines and knows
        # which ones are not there yet.
        self._files = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<ApplicationLog {self._path} {state}, {len(self._followers)} followers>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def bound(self, limit_bytes: int) -> None:
        """Have another limit; a lower one holds once the lines that are there have been replaced.

        At least `MIN_LIMIT_BYTES`.
        """
        self._half = max(limit_bytes, MIN_LIMIT_BYTES) // 2
        self._message_limit = _message_limit(self._half)

    @property
    def size_bytes(self) -> int:
        """How long its files are on disk; blocks for a moment."""
        sizes = 0
        for path in (self._path, self._older):
            with suppress(OSError):
                sizes += path.stat().st_size
        return sizes

    def append(self, record: LogLine) -> None:
        """Add a line; returns at once and never raises.

        What the disk or a follower is too slow for is dropped, and one line says how many were.
        Ignored after the log was closed.
        """
        if self._closed:
            return
        bounded = _bounded(record, self._message_limit)
        line = _encode(bounded)
        self._pending.push(line, bounded.time_unix_ns)
        for follower in self._followers:
            follower.push(line, bounded)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_pending())

    def note(self, level: str, message: str) -> None:
        """Add a line of the node itself, with the current time."""
        self.append(LogLine(time_ns(), "node", level, message))

    async def read(self, tail: int = 0, *, trace_id: str = "") -> list[LogLine]:
        """Return the last `tail` lines, oldest first; 0 means all that are kept.

        With a trace id only lines of that trace.
        """
        async with self._files:
            pending = self._pending.lines()
            lines = await asyncio.to_thread(self._read_files, tail, pending, trace_id)
        return await asyncio.to_thread(_decode, lines)

    async def follow(self, tail: int = 0, *, trace_id: str = "") -> AsyncGenerator[LogLine, None]:
        """Yield the last `tail` lines (0: all that are kept), then each new one.

        With a trace id only lines of that trace. Without gap or repetition, except for lines
        dropped because the consumer is too slow, which one line replaces and counts. Ends when the
        log is closed. Close it with `aclosing`. Raises `ResourceExhausted` if there are
        `MAX_FOLLOWERS` already.
        """
        if len(self._followers) >= MAX_FOLLOWERS:
            raise ResourceExhausted(
                f"too many followers of this log ({MAX_FOLLOWERS})",
                hint="stop another `plexspaces logs -f` of this application",
            )
        follower = _Follower(self._pending_bytes, trace_id)
        self._followers.add(follower)
        try:
            async with self._files:
                # No write is in progress here, so every line is in exactly one place: on disk, in
                # `pending`, or, from now on, sent to the follower.
                follower.take()
                pending = self._pending.lines()
                past = await asyncio.to_thread(self._read_files, tail, pending, trace_id)
            for record in await asyncio.to_thread(_decode, past):
                yield record
            while follower.backlog or not self._closed:
                follower.wake.clear()
                for record in _decode(follower.take()):
                    yield record
                if not follower.backlog and not self._closed:
                    await follower.wake.wait()
        finally:
            self._followers.discard(follower)

    async def close(self) -> None:
        """Write what is pending and end every follower after its last line. Idempotent."""
        self._closed = True
        for follower in self._followers:
            follower.wake.set()
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def remove(self) -> None:
        """Close the log and remove its files, if there are any."""
        await self.close()
        await self.clear()

    async def clear(self) -> None:
        """Remove the files, because they belong to an earlier application."""
        async with self._files:
            await asyncio.to_thread(self._unlink_files)

    async def _write_pending(self) -> None:
        try:
            while self._pending:
                async with self._files:
                    batch, self._pending = self._pending, _Backlog(self._pending_bytes)
                    lines = batch.lines()
                    written = await asyncio.to_thread(self._write_files, lines)
                if written < len(lines):
                    # The disk is full or gone. The next append tries again; trying now would only
                    # spin.
                    self._pending.lose(batch, written)
                    return
        finally:
            self._writing = None

    # ---- from here on, on a thread, with `_files` held --------------------------------------

    def _read_files(self, tail: int, pending: list[bytes], trace_id: str) -> list[bytes]:
        lines: list[bytes] = []
        for path in (self._older, self._path):
            with suppress(FileNotFoundError):
                lines += path.read_bytes().splitlines(keepends=True)
        lines += pending
        if trace_id:
            lines = [line for line in lines if _is_of(line, trace_id)]
        return lines[-tail:] if tail else lines

    def _write_files(self, lines: list[bytes]) -> int:
        written = 0
        with suppress(OSError):
            while written < len(lines):
                written += self._write_until_full(lines, written)
                if written < len(lines):
                    self._path.replace(self._older)
        return written

    def _write_until_full(self, lines: list[bytes], start: int) -> int:
        half = self._half
        with FileIO(self._path, "a+", opener=_open_private) as file:
            size = file.seek(0, os.SEEK_END)
            chunk = bytearray()
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                chunk += b"\n"
            count = 0
            for line in islice(lines, start, None):
                count += 1
                if len(line) > half:
                    # From before the limit was lowered.
                    continue
                if size + len(chunk) + len(line) > half:
                    count -= 1
                    break
                chunk += line
            if chunk:
                _write_all(file, size, chunk)
        return count

    def _unlink_files(self) -> None:
        self._path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)


def _message_limit(half: int) -> int:
    return min(MESSAGE_LIMIT_BYTES, (half - _LINE_OVERHEAD_BYTES) // _ESCAPE_GROWTH)


def _write_all(file: FileIO, size: int, chunk: bytearray) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        # Back to complete lines, so that lines counted as lost are not there in part.
        file.truncate(size)
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _bounded(record: LogLine, message_limit: int) -> LogLine:
    return LogLine(
        max(0, min(record.time_unix_ns, _MAX_TIME_NS)),
        _cut(record.stream, _WORD_LIMIT_BYTES),
        _cut(record.level, _WORD_LIMIT_BYTES),
        _cut(record.message, message_limit),
        record.trace_id if TRACE_ID_PATTERN.fullmatch(record.trace_id) else "",
    )


def _cut(text: str, limit_bytes: int) -> str:
    if text.isascii() and len(text) <= limit_bytes:
        return text
    # "replace", because a lone surrogate is not valid UTF-8 and a log line must not fail.
    data = text.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return data.decode()
    kept = data[:limit_bytes].decode("utf-8", "ignore")
    return f"{kept} [cut: {len(data) - limit_bytes} bytes more]"


def _encode(record: LogLine) -> bytes:
    kept = _Kept(record.time_unix_ns, record.stream, record.level, record.message, record.trace_id)
    return _encoder.encode(kept) + b"\n"


def _is_of(line: bytes, trace_id: str) -> bool:
    # Most lines are not, and cost no decoding.
    return trace_id.encode() in line and any(
        record.trace_id == trace_id for record in _decode([line])
    )


def _decode(lines: list[bytes]) -> list[LogLine]:
    records = []
    for line in lines:
        with suppress(msgspec.DecodeError):
            records.append(_decoder.decode(line))
    return records
