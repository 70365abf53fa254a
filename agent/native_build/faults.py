"""Errors that end a build, in words for people."""

from __future__ import annotations


class Fault(Exception):
    """A build that cannot continue: the fact, and the command or action that helps."""

    def __init__(self, fact: str, hint: str | None = None) -> None:
        super().__init__(fact)
        self.hint = hint

    def __str__(self) -> str:
        fact = super().__str__()
        return f"error: {fact}" + (f"\nhint: {self.hint}" if self.hint else "")
