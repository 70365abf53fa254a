"""Programs that serve for as long as a measurement takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
_GRACE_S = 60.0
"""For a node to stop a thousand applications."""


def with_tests() -> None:
    """Let what is below tests be imported from now on."""
    if (tests := str(ROOT / "tests")) not in sys.path:
        sys.path.insert(0, tests)


@contextmanager
def serving(argv: list[str]) -> Iterator[str]:
    """Start a program that serves until its stdin ends; yields the first line that it prints."""
    with serving_process(argv) as (_, line):
        yield line


@contextmanager
def serving_process(argv: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The same for a program that is killed meanwhile; yields the process too."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(_GRACE_S)
        process.stdout.close()
