"""The result of one check of `plexspaces doctor`, and text from elsewhere made fit for it."""

from __future__ import annotations

from dataclasses import dataclass

_DETAIL_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        area: heading under which it is shown; findings of an area follow one another.
        ok: True if it works, False if it fails and the node needs it, None if it is optional.
        detail: one line: the version, the place, or the reason.
        hint: the command that fixes it, or None.
    """

    area: str
    name: str
    ok: bool | None
    detail: str
    hint: str | None = None


def one_line(text: str, *, last: bool = False) -> str:
    """Return the first or last line that has something, printable and short."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    return _printable(lines[-1 if last else 0])[:160]


def clean(text: str) -> str:
    """Return a text as one line, printable and not too long."""
    return _printable(" ".join(text.split()))[:_DETAIL_LIMIT]


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable()).strip()
