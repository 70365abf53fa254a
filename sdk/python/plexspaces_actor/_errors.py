"""The errors that an application sees."""

from __future__ import annotations


class ActorFailure(Exception):
    """An error record: raise it to answer with it; `ask` and `tell` raise the other's.

    Attributes:
        code: short and stable, for programs: ``not-found``, ``division-by-zero``.
        message: for people.
        retryable: whether the same message may succeed later.
    """

    def __init__(self, code: str, message: str = "", retryable: bool = False) -> None:
        super().__init__(code, message, retryable)
        self.code = code
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class KeyValueError(Exception):
    """The store refused, for example because it is full; the message says why."""


class DefinitionError(TypeError):
    """The SDK cannot use the actor as it is written; raised when the application is built."""
