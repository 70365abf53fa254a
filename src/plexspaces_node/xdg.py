"""Where a user's files are, by the XDG base directory specification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONFIG = ("XDG_CONFIG_HOME", ".config")
DATA = ("XDG_DATA_HOME", ".local/share")
"""The variable that names a directory, and where that is below the home directory otherwise."""


def directory(kind: tuple[str, str], variables: Mapping[str, str]) -> Path | None:
    """Return the directory of a kind, None for a user without a home directory."""
    variable, below_home = kind
    # The specification tells programs to ignore a relative value.
    for named, below in (
        (variables.get(variable, ""), ""),
        (variables.get("HOME", ""), below_home),
    ):
        if named.startswith("/"):
            return Path(named, below)
    return None
