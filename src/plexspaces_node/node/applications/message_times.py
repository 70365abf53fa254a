"""How long the parts of a message took, from what its agent reports and the node measures."""

from __future__ import annotations

from time import perf_counter_ns

from plexspaces_node.errors import ActorError, ActorFailed, PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.agent_client import plausible_ns
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.span import Span

_SERVER_ERROR = 500
"""The first status of HTTP that is the fault of the server, and not of its client."""

_LEFT = "cancelled"
"""What an agent says of a request whose client left."""


def timings_of(
    times: link.Reply | link.Response | None, total_ns: int, waited_ns: int = 0
) -> MessageTimings:
    """Return how long the parts of a message took, as far as its agent has told.

    `waited_ns` is how long it waited for its application before.
    """
    if times is None:
        return MessageTimings(total_ns, 0, 0, 0)
    # They follow one another, so together they cannot be longer either.
    if times.compute_ns + times.wait_ns + times.queue_ns + waited_ns <= total_ns:
        return MessageTimings(total_ns, times.compute_ns, times.wait_ns, times.queue_ns + waited_ns)
    compute_ns = plausible_ns(times.compute_ns, total_ns)
    wait_ns = plausible_ns(times.wait_ns, total_ns - compute_ns)
    queue_ns = plausible_ns(times.queue_ns + waited_ns, total_ns - compute_ns - wait_ns)
    return MessageTimings(total_ns, compute_ns, wait_ns, queue_ns)


def count_unclaimed(  # noqa: PLR0913 - each by its name
    activity: Activity,
    span: Span,
    reply: link.Reply | None,
    reply_bytes: int,
    *,
    streamed_ns: int = 0,
    status: int = 0,
) -> None:
    """Count a message that ends now and whose sender no longer waits; None if no reply came.

    It ended `streamed_ns` ago for its application. A request that ended because its client left is
    no failure; one whose response has a `status` that tells an error of the server is.
    """
    if reply is None:
        activity.lose(span)
        return
    error: PlexSpacesError | ActorError | None = None
    if reply.HasField("failure") and not _was_left(reply.failure):
        error = link.error_of(reply.failure)
    elif status >= _SERVER_ERROR:
        error = ActorFailed(f"it answered with status {status}", code=f"http-{status}")
    total_ns = perf_counter_ns() - span.begin_ns - streamed_ns
    timings = timings_of(reply, total_ns, span.waited_ns)
    activity.end(span, timings, error, reply_bytes)


def _was_left(failure: link.Failure) -> bool:
    return failure.origin == link.Failure.ORIGIN_PLATFORM and failure.code == _LEFT
