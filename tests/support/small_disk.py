"""A disk that is really full: a program on a small file system of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_on_small_disk(
    program: str, place: Path, size: str, *, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a Python program with a file system of this size at `place`, which it is given.

    `before` is what a shell does first. Skips the test where user namespaces may not mount.
    """
    script = (
        f'mount -t tmpfs -o size={size} none {place} || exit 99; {before}exec "$0" -c "$1" {place}'
    )
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    done = subprocess.run(
        [*unshare, "sh", "-c", script, sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode in (1, 99) and not done.stdout and "Traceback" not in done.stderr:
        pytest.skip("user namespaces with mounts are not allowed here")
    return done
