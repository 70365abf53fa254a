"""The place of a message in a trace, as W3C's `traceparent` writes it."""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "traceparent"
"""The header, and the metadata, that say to which trace a message belongs."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_VERSION = "ff"
_SAMPLED = 1


class TraceContext(NamedTuple):
    """The message that caused another one, in whatever process that was."""

    trace_id: int
    span_id: int
    is_sampled: bool


def parse(text: str) -> TraceContext | None:
    """Read a `traceparent`; None for one that is malformed, which starts a new trace."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # A later version may have more fields; this one has not.
    if version == _NO_VERSION or (version == "00" and rest is not None):
        return None
    context = TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return context if context.trace_id and context.span_id else None


def write(trace_id: int, span_id: int, *, is_sampled: bool) -> str:
    """Return the `traceparent` of what a span causes."""
    return f"00-{trace_id:032x}-{span_id:016x}-{int(is_sampled):02x}"
