"""Messages to applications: from clients, and from one application to another.

`post` looks an application up and calls its agent: no disk, no lock, no task. If it has no agent
that takes messages, the message waits: see `intake`. This module has the limits of a message, its
counters, and who waits for whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import perf_counter_ns
from typing import TypeAlias
from urllib.parse import quote

from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    no_application,
)
from plexspaces_node.info import MessageTimings
from plexspaces_node.link import frames as link
from plexspaces_node.model import ArtifactKind, beside, host_name, split_name
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.applications.clustered import HeldReply
from plexspaces_node.node.applications.elsewhere import Elsewhere, Message
from plexspaces_node.node.applications.message_times import count_unclaimed, timings_of
from plexspaces_node.node.applications.outcome import Cause, Done, Outcome
from plexspaces_node.node.applications.quotas import Refusal
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.waits import Waits
from plexspaces_node.node.machines.agent_client import AgentClient
from plexspaces_node.node.machines.exchanges import Beginning, Exchange
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.span import NAME_CHARS, Kind, Span
from plexspaces_node.settings import LimitsSection
from plexspaces_node.tasks import Leave, called_back
from plexspaces_node.trace_context import HEADER

_FIRST_ERROR = 400
"""The first status of HTTP that tells an error."""

_SAID_BYTES = 4096
"""How much of a response with such a status is the error's message."""

_SLACK_S = 1.0
"""How much longer the node waits for a whole response than the agent for its beginning."""

_NO_TIME = MessageTimings(0, 0, 0, 0)

Sent: TypeAlias = Callable[[Exchange | PlexSpacesError], None]
"""Called once, on the event loop, with a request that was sent or with why it was not."""


class Messages:
    """Passes messages on; an `actor_host.Router`. Used only on the event loop.

    Attributes:
        elsewhere: the other nodes of the cluster; None for a node that is in none.
    """

    def __init__(self, limits: LimitsSection, roster: Roster) -> None:
        self.elsewhere: Elsewhere | None = None
        self._limits = limits
        self._roster = roster
        self._waits = Waits()
        # The messages to components: nothing else refers to the task of one that was told.
        self._at_components: set[asyncio.Task[Outcome]] = set()
        self._closed = False

    async def invoke(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        payload: link.Body,
        timeout_ns: int,
        *,
        sender: str = "",
        cause: Cause = None,
        caller: Identity | None = None,
    ) -> Outcome:
        """Send a message and wait for the reply; raises every error that `post` has."""
        post = partial(self.post, name, msg_type, payload, timeout_ns)
        return await called_back(partial(post, sender=sender, cause=cause, caller=caller))

    def post(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        payload: link.Body,
        timeout_ns: int,
        done: Done,
        *,
        sender: str = "",
        cause: Cause = None,
        caller: Identity | None = None,
    ) -> Leave:
        """Send a message; `done` is called with its outcome, or an error, once there is one.

        `sender` is the full name of the actor that sends it; else `caller` does.

        Never before this returns, nor after the returned function was called. The time that it
        waits for its application is part of its timeout, and counted as queue. Raises `NotFound`,
        `WrongState`, `Unavailable`, `ResourceExhausted`, and `InvalidArgument` for a message over a
        limit; later errors are these, `DeadlineExceeded` and those of the platform in the agent. An
        application's own failure is in the outcome.
        """
        if self.elsewhere is not None and self.is_elsewhere(name):
            self._check_message(msg_type, payload, timeout_ns)
            waiting = self._waits.chain(sender) if sender else ()
            message = Message(
                *(name, msg_type, payload, timeout_ns),
                caller=caller,
                sender=sender,
                waiting=waiting,
                cause=cause,
            )
            return self.elsewhere.post(message, done)
        sender = split_name(sender)[1] if sender else ""
        return self._post_here(name, msg_type, payload, timeout_ns, done, sender, cause)

    def is_here(self, name: str) -> bool:
        """Return whether this node has an application, and not only what is left of it."""
        supervisor = self._roster.applications.get(name)
        if supervisor is None:
            return False
        elsewhere = self.elsewhere
        takes = supervisor.intake.takes and not supervisor.expected
        return elsewhere is None or takes or not elsewhere.has_left(name)

    def is_elsewhere(self, name: str) -> bool:
        """Return whether the messages of an application go to other nodes."""
        return self.elsewhere is not None and not self.is_here(name) and self.elsewhere.knows(name)

    def receive(self, message: Message, done: Done) -> Leave:
        """Do what `post` does with a message that another node passes on: here, or not at all."""
        sender = split_name(message.sender)[1] if message.sender else ""
        what = (message.name, message.type, message.payload)
        if message.is_told:
            self._tell(*what, sender, message.cause)
            accepted = Outcome(b"", None, _NO_TIME)
            return asyncio.get_running_loop().call_soon(done, accepted).cancel
        if not message.waiting:
            return self._post_here(*what, message.timeout_ns, done, sender, message.cause)
        end = self._waits.begin_told(message.waiting, message.name)

        def replied(outcome: Outcome | PlexSpacesError) -> None:
            end()
            done(outcome)

        def leave() -> None:
            end()
            left()

        try:
            left = self._post_here(*what, message.timeout_ns, replied, sender, message.cause)
        except PlexSpacesError:
            end()
            raise
        return leave

    def _post_here(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        payload: link.Body,
        timeout_ns: int,
        done: Done,
        sender: str,
        cause: Cause,
    ) -> Leave:
        supervisor = self._roster.named(name)
        self._check_message(msg_type, payload, timeout_ns)
        kind = Kind.ASK if sender else Kind.MESSAGE
        if supervisor.record.kind is ArtifactKind.HTTP_COMPONENT:
            return self._post_to_component(name, msg_type, payload, timeout_ns, done, cause, kind)
        if (refusal := _refusal(supervisor)) is not None:
            return refusal.tell(done, size=len(payload))
        span = supervisor.activity.begin(kind, msg_type, len(payload), cause)

        def answered(answer: Answered | PlexSpacesError) -> None:
            if isinstance(answer, PlexSpacesError):
                supervisor.activity.fail(span, answer)
                done(answer)
            else:
                done(_outcome(answer, span, supervisor.activity))

        if (lease := supervisor.lease) is None:
            return self._send(supervisor, span, payload, timeout_ns, sender, answered)
        held = lease.guard(name, timeout_ns, answered)
        leave = self._send(supervisor, span, payload, timeout_ns, sender, held.give)
        return _leaving_held(held, leave, span, supervisor.activity)

    def _send(  # noqa: PLR0913 - all of a message
        self,
        supervisor: Supervisor,
        span: Span,
        payload: link.Body,
        timeout_ns: int,
        sender: str,
        answered: Callable[[Answered | PlexSpacesError], None],
    ) -> Leave:
        intake = supervisor.intake
        if supervisor.lease is not None and not supervisor.lease.is_held():
            # It waits in line until it is.
            supervisor.direct()
        try:
            if (agent := intake.agent) is not None:
                return _hand_over(span, payload, timeout_ns, sender, answered, agent)
            span.is_cold = True
            send = partial(_hand_over, span, payload, timeout_ns, sender, answered)
            leave = intake.post(send, answered, size=len(payload), timeout_ns=timeout_ns)
            return _leaving(leave, span, supervisor.activity)
        except PlexSpacesError as error:
            # It was refused at once.
            span.is_cold = False
            supervisor.activity.fail(span, error)
            raise

    def request(  # noqa: PLR0913 - a request, and who waits for it
        self,
        name: str,
        head: link.RequestHead,
        body: link.Body,
        timeout_ns: int,
        sent: Sent,
        *,
        cause: Cause = None,
        kind: Kind = Kind.MESSAGE,
    ) -> Leave:
        """Send an HTTP request to a component; `body` is as in `AgentClient.exchange`.

        `sent` is called with the exchange: at once, or later if the application is started or
        replaced just now, or then with an error. The returned function ends it. Raises what
        `post` raises.
        """
        supervisor = self._roster.named(name)
        activity, intake = supervisor.activity, supervisor.intake
        if (refusal := _refusal(supervisor)) is not None:
            return refusal.tell(sent, size=len(body))
        # Without its query, in which there may be a secret: others read traces.
        name_of_span = f"{head.method} {head.path.partition('?')[0]}"[:NAME_CHARS]
        span = activity.begin(kind, name_of_span, len(body), cause)
        span.is_cold = intake.agent is None
        if span.tree is not None:
            _tell_trace(head, span)

        def send(agent: AgentClient) -> Leave:
            def replied(answer: Answered | PlexSpacesError) -> None:
                if isinstance(answer, PlexSpacesError):
                    activity.fail(span, answer)
                    return
                reply, whole = answer
                status = _status_of(exchange, reply)
                if span.tree is not None:
                    span.status = status
                span.payload_bytes += exchange.uploaded_bytes
                size = len(whole) + exchange.received_bytes
                streamed_ns = exchange.streamed_ns
                count_unclaimed(
                    *(activity, span, reply, size), streamed_ns=streamed_ns, status=status
                )

            span.waited_ns = perf_counter_ns() - span.begin_ns
            left_ns = max(1, timeout_ns - span.waited_ns)
            exchange = agent.exchange(head, body, left_ns, replied, span=span)
            exchange.waited_ns = span.waited_ns
            sent(exchange)
            # A caller that is cancelled in this very step never gets it.
            return exchange.leave

        def failed(error: PlexSpacesError) -> None:
            activity.fail(span, error)
            sent(error)

        try:
            leave = intake.post(send, failed, size=len(body), timeout_ns=timeout_ns)
            return _leaving(leave, span, activity) if span.is_cold else leave
        except PlexSpacesError as error:
            # It was refused at once.
            span.is_cold = False
            activity.fail(span, error)
            raise

    async def exchange(  # noqa: PLR0913 - a request, and what it belongs to
        self,
        name: str,
        head: link.RequestHead,
        body: link.Body,
        timeout_ns: int,
        *,
        cause: Cause = None,
        kind: Kind = Kind.MESSAGE,
    ) -> Exchange:
        """Do what `request` does, and return the exchange; the caller closes it."""
        request = partial(self.request, name, head, body, timeout_ns, cause=cause, kind=kind)
        return await called_back(request)

    def _post_to_component(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        payload: link.Body,
        timeout_ns: int,
        done: Done,
        cause: Cause,
        kind: Kind,
    ) -> Leave:
        def told(task: asyncio.Task[Outcome]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, PlexSpacesError):
                done(error)
            else:
                done(Internal(f"internal error of the node: {error!r}"))

        work = self._invoke_component(name, msg_type, payload, timeout_ns, cause, kind)
        task = asyncio.get_running_loop().create_task(work)
        self._at_components.add(task)
        task.add_done_callback(self._at_components.discard)
        task.add_done_callback(told)

        def leave() -> None:
            task.cancel()

        return leave

    async def _invoke_component(  # noqa: PLR0913 - a message, and what it belongs to
        self,
        name: str,
        msg_type: str,
        payload: link.Body,
        timeout_ns: int,
        cause: Cause,
        kind: Kind,
    ) -> Outcome:
        """Send a message as an HTTP request: POST, its type as the path."""
        begin_ns = perf_counter_ns()
        head = link.RequestHead(
            method="POST",
            scheme="http",
            authority=f"{host_name(name)}.localhost",
            path="/" + quote(msg_type.lstrip("/"), safe="/"),
            headers=[link.Header(name="content-length", value=b"%d" % len(payload))],
            more=len(payload) > link.WINDOW_BYTES,
        )
        first, rest = payload[: link.WINDOW_BYTES], payload[link.WINDOW_BYTES :]
        exchange = await self.exchange(name, head, first, timeout_ns, cause=cause, kind=kind)
        reply: link.Body = b""
        try:
            if head.more:
                exchange.upload(_once(bytes(rest)))
            async with asyncio.timeout(timeout_ns / 1e9 + _SLACK_S):
                beginning = await exchange.begin()
                reply = await self._whole(exchange, beginning)
            failure = _failure_of(beginning.head.status, reply)
        except TimeoutError:
            raise DeadlineExceeded("the response was not complete in time") from None
        except ActorError as error:
            failure = error
        finally:
            await exchange.aclose()
        total_ns = perf_counter_ns() - begin_ns
        timings = timings_of(exchange.times, total_ns, exchange.waited_ns)
        return Outcome(reply, failure, timings, exchange.span)

    async def _whole(self, exchange: Exchange, beginning: Beginning) -> link.Body:
        """Return all of a response's body; raises `ActorFailed` for one over the limit."""
        if beginning.body is not None:
            return beginning.body
        whole, limit = bytearray(), self._limits.message_bytes
        async for piece in exchange:
            whole += piece
            if len(whole) > limit:
                raise ActorFailed(
                    f"a reply of {len(whole)} bytes or more is over the limit of {limit}",
                    code="reply-too-large",
                    hint="raise [limits] message_bytes, or answer in parts",
                )
        return whole

    async def ask(
        self, sender: str, request: link.Ask, payload: link.Body, cause: Span | None = None
    ) -> link.Body:
        """Pass an actor's message on and return the reply; see `actor_host.Router`."""
        to = self._beside(sender, request.to)
        asked = self._roster.named(sender).activity.asked
        end = self._waits.begin(sender, to, named=request.to)
        try:
            outcome = await self.invoke(
                *(to, request.type, payload, request.timeout_ns), sender=sender, cause=cause
            )
        except PlexSpacesError as error:
            asked(request.to, None, error)
            raise
        finally:
            end()
        asked(request.to, outcome.timings, outcome.failure)
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.payload

    def tell(
        self, sender: str, request: link.Tell, payload: link.Body, cause: Span | None = None
    ) -> None:
        """Queue an actor's message with another application; see `actor_host.Router`."""
        to, local = self._beside(sender, request.to), split_name(sender)[1]
        if self.elsewhere is None or not self.is_elsewhere(to):
            self._tell(to, request.type, payload, local, cause)
            return
        timeout_ns = int(self._limits.message_timeout_s * 1e9)
        self._check_message(request.type, payload, timeout_ns)
        journal = self._roster.named(sender).journal

        def accepted(outcome: Outcome | PlexSpacesError) -> None:
            failure = outcome.failure if isinstance(outcome, Outcome) else outcome
            if failure is not None and not self._closed:
                # It did not come to the other application's log.
                journal.note("warn", f"a message to {request.to!r}: {failure.message}")

        message = Message(
            *(to, request.type, payload, timeout_ns), sender=sender, is_told=True, cause=cause
        )
        self.elsewhere.post(message, accepted)

    def _tell(self, to: str, msg_type: str, payload: link.Body, local: str, cause: Cause) -> None:
        """Queue a message of `local`, an actor of the same tenant, with an application here."""
        target = self._roster.named(to)
        timeout_ns = int(self._limits.message_timeout_s * 1e9)
        self._check_message(msg_type, payload, timeout_ns)

        def settled(answer: Answered | PlexSpacesError) -> None:
            if self._closed:
                return
            if isinstance(answer, PlexSpacesError):
                target.activity.fail(span, answer)
                note(str(answer))
            else:
                count_unclaimed(target.activity, span, answer[0], len(answer[1]))
                note(answer[0].failure.message)

        def answered(outcome: Outcome | PlexSpacesError) -> None:
            failure = outcome.failure if isinstance(outcome, Outcome) else outcome
            if failure is not None and not self._closed:
                note(failure.message)

        def note(why: str) -> None:
            if why:
                # Nobody waits for it, so the failure can only be seen in the log.
                target.journal.note("warn", f"a message from {local!r}: {why}")

        if target.record.kind is ArtifactKind.HTTP_COMPONENT:
            told = (to, msg_type, payload, timeout_ns, answered, cause)
            self._post_to_component(*told, Kind.TELL)
        else:
            if (refusal := _refusal(target)) is not None:
                raise refusal.error()
            span = target.activity.begin(Kind.TELL, msg_type, len(payload), cause)
            self._send(target, span, payload, timeout_ns, local, settled)

    def _beside(self, sender: str, name: str) -> str:
        """Return the full name of the application that has a name in its sender's tenant.

        Raises `NotFound`, the same for one that only another tenant has: what is not a name within
        a tenant is nobody's.
        """
        full = "" if "/" in name else beside(sender, name)
        try:
            self._roster.named(full)
        except NotFound:
            if self.elsewhere is None or not self.elsewhere.knows(full):
                # By the name that the sender knows.
                raise no_application(name) from None
        return full

    def close(self) -> None:
        """Stop waiting for the messages of `tell`."""
        self._closed = True

    def _check_message(self, msg_type: str, payload: link.Body, timeout_ns: int) -> None:
        limit = self._limits.message_bytes
        if len(payload) > limit:
            raise InvalidArgument(
                f"a message of {len(payload)} bytes exceeds the limit of {limit}",
                hint="send it in parts, or raise [limits] message_bytes",
            )
        if len(msg_type.encode()) > link.CODE_BYTES:
            raise InvalidArgument(f"a message type is at most {link.CODE_BYTES} bytes")
        if timeout_ns <= 0:
            raise InvalidArgument("the timeout must be more than 0", hint="--timeout 30")


def _hand_over(  # noqa: PLR0913 - all of a message
    span: Span,
    payload: link.Body,
    timeout_ns: int,
    sender: str,
    answered: Callable[[Answered | PlexSpacesError], None],
    agent: AgentClient,
) -> Leave:
    """Send a message to the agent that takes it."""
    span.waited_ns = waited_ns = perf_counter_ns() - span.begin_ns
    leave = agent.post(
        answered,
        sender=sender,
        msg_type=span.name,
        payload=payload,
        timeout_ns=max(1, timeout_ns - waited_ns),
        span=span,
    )
    if len(span.name) > NAME_CHARS:
        # The agent has it; what is kept is bounded.
        span.name = span.name[:NAME_CHARS]
    return leave


def _leaving(leave: Leave, span: Span, activity: Activity) -> Leave:
    """Return what leaves a message that may still wait for its application: then it has ended."""

    def left() -> None:
        leave()
        if not span.waited_ns and not span.total_ns:
            activity.leave(span)

    return left


def _leaving_held(held: HeldReply, leave: Leave, span: Span, activity: Activity) -> Leave:
    """Return what leaves a message whose answer may wait for the lease."""

    def left() -> None:
        if (kept := held.leave()) is not None:
            count_unclaimed(activity, span, kept[0], len(kept[1]))
        else:
            leave()

    return left


def _refusal(supervisor: Supervisor) -> Refusal | None:
    """Count a message for the quotas; return why it is refused."""
    gate = supervisor.gate
    refusal = None if gate.is_open else gate.admit()
    if refusal is not None:
        supervisor.activity.refuse()
    return refusal


async def _once(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


def _failure_of(status: int, body: link.Body) -> ActorError | None:
    """Return what a response says that its sender would not call a reply."""
    if status < _FIRST_ERROR:
        return None
    said = bytes(body[:_SAID_BYTES]).decode("utf-8", "replace").strip()
    return ActorFailed(said or f"it answered with status {status}", code=f"http-{status}")


def _outcome(answered: Answered, span: Span, activity: Activity) -> Outcome | PlexSpacesError:
    """Count a reply and return what it says, with how long the parts of the message took."""
    reply, body = answered
    timings = timings_of(reply, perf_counter_ns() - span.begin_ns, span.waited_ns)
    failure = link.error_of(reply.failure) if reply.HasField("failure") else None
    activity.end(span, timings, failure, len(body))
    if isinstance(failure, PlexSpacesError):
        return failure
    return Outcome(body, failure, timings, span)


def _status_of(exchange: Exchange, reply: link.Reply) -> int:
    """Return the status of a response that has begun, or is in the agent's last word; else 0."""
    begun = exchange.times
    return begun.head.status if isinstance(begun, link.Response) else reply.response.status


def _tell_trace(head: link.RequestHead, span: Span) -> None:
    """Have a component know the trace of its request, in place of what its client said."""
    for header in head.headers:
        if header.name == HEADER:
            header.value = span.traceparent.encode()
            return
    head.headers.add(name=HEADER, value=span.traceparent.encode())
