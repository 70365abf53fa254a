"""A command in a terminal of its own: what it draws, the keys it gets, and how it leaves it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select
from time import monotonic

from support.patience import patient

SOURCES = Path(__file__).parents[2] / "src"
OTHER_SCREEN, CURSOR_HIDDEN = b"\x1b[?1049h", b"\x1b[?25l"
FIRST_SCREEN, CURSOR_SHOWN = b"\x1b[?1049l", b"\x1b[?25h"


class Screen:
    """A command that runs in a terminal.

    Attributes:
        drawn: everything that it has written.
    """

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self._terminal = terminal
        self._process = process
        self.drawn = b""

    def until(self, *texts: str, since: int = 0) -> int:
        """Wait until it has written these, and return how much it has written by then.

        Not counting the first `since` bytes.
        """
        wanted = [text.encode() for text in texts]
        end = monotonic() + patient(20)
        while not all(text in self.drawn[since:] for text in wanted):
            assert monotonic() < end, f"{wanted} not in {self.drawn[since:][-2000:]!r}"
            assert self._read(), f"ended without {wanted}: {self.drawn[-2000:]!r}"
        return len(self.drawn)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        self._process.send_signal(number)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, and tell."""
        _set_size(self._terminal, columns, lines)
        self.signal(signal.SIGWINCH)

    def ended(self) -> int:
        """Wait for its end and return its status."""
        end = monotonic() + patient(20)
        while self._read() and monotonic() < end:
            pass
        return self._process.wait(patient(20))

    def mode(self) -> list[object]:
        """How the terminal is set."""
        return termios.tcgetattr(self._terminal)

    def _read(self) -> bool:
        ready, _, _ = select([self._terminal], [], [], patient(20))
        try:
            data = os.read(self._terminal, 65536) if ready else b""
        except OSError:
            # Nobody has the other end any more.
            data = b""
        self.drawn += data
        return bool(data)


@contextmanager
def on_screen(
    *arguments: str, columns: int = 80, lines: int = 24, environ: Mapping[str, str] | None = None
) -> Iterator[Screen]:
    """Run the command in a terminal of this size; killed at the end if it still runs."""
    ours, its = pty.openpty()
    _set_size(ours, columns, lines)
    # The size is the terminal's.
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "plexspaces_node.cli.main", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**inherited, "TERM": "xterm", "PYTHONPATH": str(SOURCES), **(environ or {})},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(its)
        yield Screen(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
