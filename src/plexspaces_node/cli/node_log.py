"""The node's own log: one event per line on stderr, for people on a terminal, else as JSON.

A node never waits for a reader of its log. What it writes to stderr goes through a bounded queue to
a thread of its own. What does not fit is dropped and counted, and the log says so when it
continues.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import structlog

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUEUED_LINES = 1000
"""The maximum number of lines that wait to be written."""
END_TIMEOUT_S = 1.0
"""How long the end waits for the remaining lines to be written."""
_DROPPED = b"%d lines were dropped here: the reader was too slow\n"
_DROPPED_JSON = b'{"event": "%d lines were dropped here: the reader was too slow"}\n'
THREAD = "stderr"


@contextmanager
def to_stderr(level: str, form: str, *, end_timeout_s: float = END_TIMEOUT_S) -> Iterator[None]:
    """Send the node's log to stderr without ever waiting for a reader.

    At the end the queued lines are written within `end_timeout_s`, or lost.

    Args:
        level: the lowest level shown: `debug`, `info`, `warning` or `error`.
        form: `console`, `json`, or `auto` for console on a terminal and JSON elsewhere.
        end_timeout_s: how long the end waits for a reader.
    """
    stderr = sys.stderr
    for_people = form == "console" or (form == "auto" and stderr.isatty())
    lines = _Lines(stderr.buffer, _DROPPED if for_people else _DROPPED_JSON)
    stream = io.TextIOWrapper(
        cast(BinaryIO, lines), encoding=stderr.encoding, errors=stderr.errors, line_buffering=True
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(for_people, on_terminal=stderr.isatty()))
    try:
        with redirect_stderr(stream), _logging(handler, level):
            yield
    finally:
        stream.flush()
        lines.end(end_timeout_s)


@contextmanager
def _logging(handler: logging.Handler, level: str) -> Iterator[None]:
    root = logging.getLogger()
    handlers_before, level_before = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers = handlers_before
        root.setLevel(level_before)


class _Lines(io.RawIOBase):
    """Writes lines to a file, in order, on a thread that may block."""

    def __init__(self, file: Any, dropped: bytes) -> None:
        """Write to `file`; `dropped` is the text that reports a number of missing lines."""
        # Below Python's buffer, which is flushed at exit and must not be locked then.
        self._file = getattr(file, "raw", file)
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._dropped = 0
        self._say_dropped = dropped
        self._thread = threading.Thread(target=self._copy, name=THREAD, daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        return True

    def write(self, line: ReadableBuffer, /) -> int:
        """Queue a line, or drop it if too many wait; never blocks."""
        data = bytes(line)
        if self._queue.qsize() < QUEUED_LINES:
            self._tell_dropped()
            self._queue.put(data)
        else:
            self._dropped += 1
        return len(data)

    def end(self, timeout_s: float) -> None:
        """Write the queued lines, for at most this long."""
        self._tell_dropped()
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._queue.put(self._say_dropped % dropped)

    def _copy(self) -> None:
        while (data := self._queue.get()) is not None:
            rest = memoryview(data)
            # A reader that has gone is not an error of the node.
            with suppress(OSError):
                while rest:
                    rest = rest[self._file.write(rest) or len(rest) :]


def _formatter(for_people: bool, *, on_terminal: bool) -> logging.Formatter:
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The renderer's own tracebacks show local variables, and with them what must not be in a log.
    plain = structlog.dev.plain_traceback
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=plain)]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
