"""How exposed a service is, according to `systemd-analyze security`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from plexspaces_node.systemd.unit import NAME

_TIMEOUT_S = 20.0
_TOLD = re.compile(r"Overall exposure level for \S+: (\d+(?:\.\d+)?) (\w+)")


def exposure_of(text: str) -> tuple[float, str] | None:
    """Return what systemd says of a unit's text: 0.0 (best) to 10.0, and its word for that.

    None without systemd 250 or newer. Runs a program for about 50 ms; changes nothing.
    """
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="plexspaces-unit-") as directory:
        unit = Path(directory, NAME)
        unit.write_text(text)
        command = [program, "security", "--offline=true", "--no-pager", str(unit)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    return read_exposure(done.stdout)


def read_exposure(output: str) -> tuple[float, str] | None:
    """Return number and word from the last line of systemd's table; pure."""
    found = _TOLD.search(output)
    return (float(found[1]), found[2]) if found else None
