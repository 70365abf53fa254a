"""Errors for directories of the user that a build cannot write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plexspaces_node.errors import InvalidArgument

CACHE_HINT = "set XDG_CACHE_HOME to a directory you can write to"


@contextmanager
def writing(place: object, hint: str) -> Iterator[None]:
    """Turn an `OSError` of writing to a place into an `InvalidArgument` that names it."""
    try:
        yield
    except OSError as error:
        raise InvalidArgument(f"{place} cannot be written: {error.strerror}", hint=hint) from error
