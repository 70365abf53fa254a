"""What an actor writes to stdout and stderr, as lines of its log.

wasmtime is given pipes by path: its own callbacks run on foreign threads. One thread reads both
pipes and emits whole lines; `drain` does the same at once, so that what an actor wrote before a
trap is known when the trap is explained.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

Emit = Callable[[str, str], None]
"""Called with the stream's name and a line."""

MAX_LINE_BYTES = 16 * 1024
_CHUNK = 64 * 1024
_CHUNKS_PER_READ = 16
_KEPT_LINES = 64


class _Pipe:
    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self.path = f"/proc/self/fd/{self.writer}"
        self.rest = b""


class Output:
    """The two pipes of the agent's one actor; they live as long as the agent."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._pipes = (_Pipe("stdout"), _Pipe("stderr"))
        self._lock = threading.Lock()
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        threading.Thread(target=self._run, name="output", daemon=True).start()

    @property
    def stdout_path(self) -> str:
        """Where a guest's stdout is opened."""
        return self._pipes[0].path

    @property
    def stderr_path(self) -> str:
        """Where a guest's stderr is opened."""
        return self._pipes[1].path

    def drain(self) -> list[str]:
        """Emit what was written so far; return the last few lines of stderr, and forget them."""
        with self._lock:
            for pipe in self._pipes:
                self._read(pipe)
                if pipe.rest:
                    self._line(pipe, pipe.rest)
                    pipe.rest = b""
            lines = list(self._last)
            self._last.clear()
            return lines

    def _run(self) -> None:
        poller = select.poll()
        by_reader = {pipe.reader: pipe for pipe in self._pipes}
        for reader in by_reader:
            poller.register(reader, select.POLLIN)
        while True:
            for reader, _ in poller.poll():
                with self._lock:
                    self._read(by_reader[reader])

    def _read(self, pipe: _Pipe) -> None:
        # Bounded: an actor that writes without end must not hold the lock without end.
        for _ in range(_CHUNKS_PER_READ):
            try:
                data = os.read(pipe.reader, _CHUNK)
            except BlockingIOError:
                return
            *lines, pipe.rest = (pipe.rest + data).split(b"\n")
            for line in lines:
                self._line(pipe, line)
            while len(pipe.rest) > MAX_LINE_BYTES:
                self._line(pipe, pipe.rest[:MAX_LINE_BYTES])
                pipe.rest = pipe.rest[MAX_LINE_BYTES:]

    def _line(self, pipe: _Pipe, line: bytes) -> None:
        text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        if pipe.stream == "stderr" and text.strip():
            self._last.append(text)
        self._emit(pipe.stream, text)
