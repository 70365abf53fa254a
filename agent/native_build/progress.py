"""Cargo's progress for people: one changing line on a terminal, else one every few seconds."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from native_build.faults import Fault

_PAUSE_TERMINAL_S = 0.2
_PAUSE_LOG_S = 15.0
_SILENCE_S = 1.0
"""After this long the time is shown again: one crate can take a minute."""
_KEPT_LINES = 200
_READ_BYTES = 64 * 1024
_STEP = re.compile(r"Building \[.*?\] (\d+)/(\d+)")
# Cargo's normal output.
_CHATTER = re.compile(
    r"\s*(Building|Compiling|Checking|Dirty|Downloaded|Downloading|Finished|Fresh|Locking|"
    r"Updating|Waiting)\b|\s*$|\s*\d+ (files|crates)\b"
)


class Teller:
    """Reports progress on standard error without filling a log."""

    def __init__(self, estimate_s: float | None) -> None:
        self._terminal = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._estimate_s = estimate_s or 0.0
        # Nothing is written to a log for what takes only a moment.
        self._next = self._begun + (0 if self._terminal else _PAUSE_LOG_S)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was created."""
        return time.monotonic() - self._begun

    def of(self, what: str) -> Callable[[str], None]:
        """Return the name of one part's steps."""
        return lambda step: self.step(f"{what}: {step}")

    def step(self, what: str) -> None:
        """Report the position, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_PAUSE_TERMINAL_S if self._terminal else _PAUSE_LOG_S)
        # Once it is past, the estimate was wrong: the host is busy, or slow.
        whole = f" of about {_words(self._estimate_s)}" if self.elapsed_s < self._estimate_s else ""
        line = f"  {what}, {_words(self.elapsed_s)}{whole}"
        sys.stderr.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Remove the changing line."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def follow(
    command: Sequence[str], *, cwd: Path, variables: Mapping[str, str], told: Callable[[str], None]
) -> None:
    """Run cargo to its end and report its steps; raises `Fault` with its output if it fails."""
    # Only its bar counts everything there is to do, and it is off if nobody looks.
    shown = {**variables, "CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "100"}
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    rest = b""
    with subprocess.Popen(
        list(command), cwd=cwd, env=shown,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as cargo:  # fmt: skip
        assert cargo.stderr is not None
        step = "starting"
        while piece := _piece(cargo.stderr.fileno()):
            *lines, rest = re.split(rb"[\r\n]", rest + piece)
            for line in (raw.decode(errors="replace") for raw in lines):
                if found := _STEP.search(line):
                    step = f"{found[1]} of {found[2]} crates"
                elif "Blocking" in line:
                    step = "waiting for another cargo to end"
                elif not _CHATTER.match(line):
                    said.append(line.rstrip())
            told(step)
    if cargo.returncode:
        words = "\n".join(said) or f"it ended with status {cargo.returncode}"
        raise Fault(f"cargo could not build the agent\n{words}", " ".join(_by_hand(command, cwd)))


def _piece(descriptor: int) -> bytes:
    """Return what was read, nothing at the end, and an empty line after a while without output."""
    if select.select([descriptor], [], [], _SILENCE_S)[0]:
        return os.read(descriptor, _READ_BYTES)
    return b"\n"


def _by_hand(command: Sequence[str], cwd: Path) -> Sequence[str]:
    return ("to see all of it: cd", str(cwd), "&&", *command)


def _words(seconds: float) -> str:
    whole = round(seconds)
    minutes, left = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    return f"{minutes} min" + (f" {left:02} s" if left else "")
