"""What becomes of a message, wherever its application runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from plexspaces_node.errors import ActorError, PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.node.telemetry.span import Span
from plexspaces_node.trace_context import TraceContext


class Outcome(NamedTuple):
    """The result of a message: the reply's payload or the application's failure, and its times.

    With a failure, the payload is what the program wrote before it failed.
    """

    payload: Body
    failure: ActorError | None
    timings: MessageTimings
    span: Span | None = None


Cause: TypeAlias = Span | TraceContext | None
"""What a message belongs to: the one that caused it, or a trace that began elsewhere."""

Done: TypeAlias = Callable[[Outcome | PlexSpacesError], None]
"""Called once, on the event loop, with the outcome of a message or with why there is none."""
