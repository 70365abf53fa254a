"""What ends a build, in the words that a person gets."""

from __future__ import annotations


class Fault(Exception):
    """A build that cannot go on: the fact, and the command or act that helps."""

    def __init__(self, fact: str, hint: str | None = None) -> None:
        super().__init__(fact)
        self.hint = hint

    def __str__(self) -> str:
        fact = super().__str__()
        return f"error: {fact}" + (f"\nhint: {self.hint}" if self.hint else "")
