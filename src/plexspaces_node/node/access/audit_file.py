"""The files of the audit log: appended to, rotated by size, read from either end.

Everything here blocks. It does not know what a line says.

    DATA-DIR/audit/
      audit.jsonl     the newest lines, one JSON object each
      audit.jsonl.1   older ones; then .2 and .3
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

NAME = "audit.jsonl"
FILES = 4
"""How many files the log has; the oldest goes when the newest is full."""

_CHUNK_BYTES = 256 * 1024
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_T = TypeVar("_T")


class AuditFile:
    """The files in one directory, never more than `limit_bytes` together.

    The directory must exist. Files are created at the first write, readable by their owner only.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._path = directory / NAME
        self._each_bytes = limit_bytes // FILES

    def __repr__(self) -> str:
        return f"<AuditFile {self._path}>"

    def append(self, lines: Sequence[bytes]) -> int:
        """Append complete lines, as many as a file can have; return how many, or raise `OSError`.

        Then none is appended.
        """
        count, more_bytes = 0, 0
        for line in lines:
            if count and more_bytes + len(line) > self._each_bytes:
                break
            count, more_bytes = count + 1, more_bytes + len(line)
        descriptor = self._opened(more_bytes)
        try:
            size = os.fstat(descriptor).st_size
            # A crash may have cut the last line short: what follows is a line of its own.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            rest = memoryview(b"\n" * torn + b"".join(lines[:count]))
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                # Lines that are counted as lost are not there in part.
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        return count

    def snapshot(self) -> Snapshot:
        """Open what there is now, for reading; not while `append` runs."""
        with ExitStack() as stack:
            held: list[tuple[BinaryIO, int]] = []
            for number in reversed(range(FILES)):
                with suppress(FileNotFoundError):
                    file = stack.enter_context(self._numbered(number).open("rb"))
                    held.append((file, os.fstat(file.fileno()).st_size))
            return Snapshot(held, stack.pop_all())

    def _opened(self, more_bytes: int) -> int:
        descriptor = os.open(self._path, _FLAGS, 0o600)
        size = os.fstat(descriptor).st_size
        if not size or size + more_bytes < self._each_bytes:
            return descriptor
        os.close(descriptor)
        for number in reversed(range(1, FILES)):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        return os.open(self._path, _FLAGS, 0o600)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{NAME}.{number}") if number else self._path


class Snapshot:
    """The files of an audit log at one moment, however they are renamed after it."""

    def __init__(self, files: Sequence[tuple[BinaryIO, int]], stack: ExitStack) -> None:
        """Hold open files, oldest first, each with its length; `stack` closes them."""
        self._files = files
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def chunks(self) -> Iterator[list[bytes]]:
        """Yield every line, oldest first, some at a time."""
        for file, size in self._files:
            begin, torn = 0, b""
            while begin < size:
                data = os.pread(file.fileno(), min(_CHUNK_BYTES, size - begin), begin)
                if not data:
                    break
                begin += len(data)
                *lines, torn = (torn + data).split(b"\n")
                yield lines
            yield [torn]

    def last(self, count: int, read: Callable[[bytes], _T | None]) -> list[_T]:
        """Return the last `count` lines of which `read` makes something, oldest first."""
        found: list[_T] = []
        for line in self._backwards():
            if len(found) == count:
                break
            if (one := read(line)) is not None:
                found.append(one)
        found.reverse()
        return found

    def _backwards(self) -> Iterator[bytes]:
        for file, size in reversed(self._files):
            end, torn = size, b""
            while end:
                begin = max(0, end - _CHUNK_BYTES)
                torn, *lines = (os.pread(file.fileno(), end - begin, begin) + torn).split(b"\n")
                yield from reversed(lines)
                end = begin
            yield torn
