"""The keys that somebody presses while a command shows something in a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

UP, DOWN, PAGE_UP, PAGE_DOWN = "up", "down", "page up", "page down"

_SEQUENCES = {
    "\x1b[A": UP,
    "\x1bOA": UP,
    "\x1b[B": DOWN,
    "\x1bOB": DOWN,
    "\x1b[5~": PAGE_UP,
    "\x1b[6~": PAGE_DOWN,
}
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_READ_BYTES = 1024
_CONTROL_CHARACTERS = 6
"""The index of them in what termios returns."""


def keys_of(text: str) -> Iterator[str]:
    """Yield the keys that a terminal sent: characters, and names of those that are several."""
    for found in _KEY.findall(text):
        yield _SEQUENCES.get(found, found)


@contextmanager
def pressed(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call `on_key` on the event loop for each key, without Enter, while the body runs.

    Does nothing if stdin is not a terminal. The terminal is as before when the body ends in any
    way. Ctrl-Z is a key here: the body may have changed the screen.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        try:
            data = os.read(terminal, _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            # The terminal is gone: nobody presses a key any more.
            loop.remove_reader(terminal)
        for key in keys_of(data.decode(errors="replace")):
            on_key(key)

    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[_CONTROL_CHARACTERS][termios.VSUSP] = b"\0"
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
        loop.add_reader(terminal, read)
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
