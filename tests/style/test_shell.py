"""Every shell script of the repository is one that `make check` gives to shellcheck."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SHELL = re.compile(rb"#!\S*(/| )?(sh|bash|dash)\b|#!\S+ sh\b|# shellcheck shell=")
_PLACES = (".ci", "benchmarks", "docker", "scripts", "src", "tests")


def shell_scripts() -> set[str]:
    """The files that say in their first line that a shell reads them."""
    return {
        str(path.relative_to(ROOT))
        for place in _PLACES
        for path in (ROOT / place).rglob("*")
        if path.is_file() and _SHELL.match(path.read_bytes()[:64])
    }


def checked_scripts() -> set[str]:
    """What the Makefile names."""
    told = subprocess.run(
        ["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in told.stdout.splitlines() if "shellcheck" in line)
    return set(line.partition("--external-sources ")[2].split())


def test_shell_scripts_when_compared_with_the_makefile_then_none_is_missing() -> None:
    """A script that is added somewhere else is checked too, or this fails."""
    assert checked_scripts() == shell_scripts()


@pytest.mark.parametrize(
    ("first", "is_one"),
    [
        (b"#!/bin/sh\n", True),
        (b"#!/bin/busybox sh\n", True),
        (b"#!/usr/bin/env bash\n", True),
        (b"#!/usr/bin/env python3\n", False),
    ],
)
def test_first_line_when_of_a_shell_then_it_is_known(first: bytes, is_one: bool) -> None:
    """The search above knows the ways in which a script names its shell."""
    assert bool(_SHELL.match(first)) is is_one
