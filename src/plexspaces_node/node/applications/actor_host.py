"""What one application can ask of the node: keys, log, state, other applications, HTTP requests.

Implements `agent_client.HostCalls`; `Router` is how messages reach other applications.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from time import time_ns
from typing import Protocol

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.node.applications.clustered import ActorStore
from plexspaces_node.node.applications.message_times import count_unclaimed
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.received_states import ReceivedStates
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines.agent_client import Kept
from plexspaces_node.node.outgoing.call import Piece, Request, Response
from plexspaces_node.node.outgoing.outgoing import Outgoing, OutgoingHttp
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.span import Span, Step


class Router(Protocol):
    """Messages between applications."""

    async def ask(
        self, sender: str, request: link.Ask, payload: link.Body, cause: Span | None = None
    ) -> link.Body:
        """Pass a message on and return the reply; raises the other application's error.

        `cause` is the message for which the sender asks, here and in `tell`, if it is known.
        """

    def tell(
        self, sender: str, request: link.Tell, payload: link.Body, cause: Span | None = None
    ) -> None:
        """Queue a message with another application; raises if that is not possible."""


class ActorHost:
    """The calls of one application's agent; used only on the event loop."""

    def __init__(  # noqa: PLR0913 - one destination for each kind of call
        self,
        application: str,
        *,
        store: ActorStore,
        router: Router,
        journal: ApplicationLog,
        states: ReceivedStates,
        activity: Activity,
        link_changed: Callable[[], None],
        http: OutgoingHttp,
        quotas: Quotas,
    ) -> None:
        self._application = application
        self._store = store
        self._router = router
        self._journal = journal
        self._states = states
        self._activity = activity
        self._link_changed = link_changed
        self._http = http
        self._quotas = quotas
        self._gate = quotas.gate(application)
        self._outgoing = self._calls(AllowedHosts())

    def __repr__(self) -> str:
        return f"<ActorHost {self._application}>"

    def log(self, lines: Sequence[LogLine]) -> None:
        """Append lines of the actor to the application's log."""
        for line in lines:
            self._journal.append(line)

    def snapshot_part(self, part: link.Snapshot, body: link.Body, kept: Kept) -> None:
        """Accept a part of a state; `kept` is called when it is in the node's memory."""
        self._states.take(part, body, kept)

    def late_reply(self, span: Span | None, reply: link.Reply | None, body: link.Body) -> None:
        """Count a reply whose sender has left, or None if no reply will come."""
        if span is not None:
            count_unclaimed(self._activity, span, reply, len(body))

    def made(self, cause: Span, step: Step) -> None:
        """Tell of a step of a message."""
        self._activity.made(cause, step)

    def link_changed(self) -> None:
        """Have messages wait while the agent takes none."""
        self._link_changed()

    async def answer(
        self, call: link.HostCall, body: link.Body, cause: Span | None = None
    ) -> link.Body | None:
        """Do what the actor asks of its node; an exception becomes the actor's answer."""
        name = self._application
        if isinstance(call, link.Get):
            return await self._store.kv_get(name, call.key)
        if isinstance(call, link.Put):
            await self._store.kv_put(name, call.key, body, self._quotas.store_bound(name))
        elif isinstance(call, link.Delete):
            await self._store.kv_delete(name, call.key)
        elif isinstance(call, link.Ask):
            return await self._router.ask(name, call, body, cause)
        else:
            self._router.tell(name, call, body, cause)
        return None

    def fetch(
        self, request: Request, body: AsyncIterator[Piece]
    ) -> AbstractAsyncContextManager[Response]:
        """Make the application's HTTP request, if its deploy allows the host."""
        return self._outgoing.call(request, body)

    def allow(self, allow_hosts: Sequence[str]) -> None:
        """From now on let the application send HTTP requests to these hosts, and no others."""
        self._outgoing.close()
        self._outgoing = self._calls(AllowedHosts.parse(allow_hosts))

    def _calls(self, allowed: AllowedHosts) -> Outgoing:
        return Outgoing(self._http, allowed, self._note, allowance=self._gate)

    def _note(self, level: str, message: str) -> None:
        self._journal.append(LogLine(time_ns(), "node", level, message))
