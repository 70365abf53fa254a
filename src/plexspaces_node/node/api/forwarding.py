"""Calls about one application, passed on to the node that has it: by gRPC, with one hop.

Stands before the services, for gRPC and for HTTP alike. Fields that only a later version knows go
through unchanged. Another node's services do not have this: what is not there, is said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from plexspaces_node.api.generated import application_pb2, telemetry_pb2
from plexspaces_node.api.status import from_grpc, reason_of
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import split_name
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.api.services import Services
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.caller import CALLER, HOP, NOT_HERE_CODE, caller_text
from plexspaces_node.node.cluster.channels import PeerChannels
from plexspaces_node.node.cluster.routes import Routes
from plexspaces_node.tasks import called_back
from plexspaces_node.trace_context import HEADER

WAIT_S = 2.0
"""How long a call waits for an application that no node has at the moment."""

_OF_VMS = ("InspectVm", "VmConsole")
_FORWARDED = {
    application_pb2.DESCRIPTOR.services_by_name["ApplicationService"].full_name: (
        "Inspect",
        "Logs",
        *_OF_VMS,
    ),
    telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"].full_name: (
        "GetActivity",
        "ListTraces",
    ),
}
VERBS = frozenset(
    f"{service}/{rpc}" for service, rpcs in _FORWARDED.items() for rpc in rpcs if rpc not in _OF_VMS
)
"""The calls that another node refuses if it does not have the application.

Not those about a VM, which may be named by its id.
"""

_OF_RECORDS = frozenset({"Inspect"})
"""Those that this node answers by the registry, without waiting, if no node serves it now."""

_MOST_TRIES = 3


class Forwarding:
    """Passes calls on. Used on the event loop."""

    def __init__(self, applications: Applications, routes: Routes, channels: PeerChannels) -> None:
        self._applications = applications
        self._routes = routes
        self._channels = channels

    def __repr__(self) -> str:
        return f"<Forwarding by {self._channels!r}>"

    def before(self, services: Services) -> Services:
        """Return services that pass on what is about an application of another node."""
        found = dict(services)
        for name, rpcs in _FORWARDED.items():
            servicer, add = services[name]
            found[name] = _Before(servicer, name, rpcs, self), add
        return found

    async def nodes_of(self, rpc: str, call: Call) -> AsyncIterator[str]:
        """Yield nodes that may have what a call is about, "" for this one; raises if none has."""
        name, besides = self._name_of(rpc, call), {self._routes.node}
        if not name or not self._applications.messages.is_elsewhere(name):
            yield ""
            return
        for _ in range(_MOST_TRIES):
            if rpc in _OF_RECORDS and self._routes.find(name, besides) is None:
                yield ""
                return
            find = partial(self._routes.when_found, name, besides=besides, wait_s=WAIT_S)
            node = await called_back(find)
            if node == self._routes.node:
                yield ""
                return
            yield node
            besides = {*besides, node}
        raise self._routes.nobody(name)

    async def reply(self, node: str, method: str, call: Call, request: Any, read: Any) -> Any:
        """Return the reply of another node; None if it does not have the application."""
        ask = self._channels.channel(node).unary_unary(
            method, request_serializer=_bytes_of, response_deserializer=read
        )
        try:
            return await ask(request, metadata=_metadata_of(call), timeout=call.time_remaining())
        except grpc.aio.AioRpcError as error:
            if reason_of(error) == NOT_HERE_CODE:
                return None
            raise _error_of(node, error) from error

    async def replies(
        self, node: str, method: str, call: Call, request: Any, read: Any
    ) -> AsyncIterator[Any]:
        """Yield the replies of another node; nothing but None if it has not the application."""
        ask = self._channels.channel(node).unary_stream(
            method, request_serializer=_bytes_of, response_deserializer=read
        )
        stream = ask(request, metadata=_metadata_of(call), timeout=call.time_remaining())
        try:
            async for reply in stream:
                yield reply
        except grpc.aio.AioRpcError as error:
            if reason_of(error) == NOT_HERE_CODE:
                yield None
                return
            raise _error_of(node, error) from error
        finally:
            # Whoever called has left, or it has ended.
            stream.cancel()

    def _name_of(self, rpc: str, call: Call) -> str:
        """Return the full name of the application that a call is about, "" for this node's own."""
        name = call.name
        if rpc not in _OF_VMS or self._routes.knows(name):
            return name
        found = self._routes.node_of_vm(split_name(name)[1])
        # Of another tenant it would be told that there is one.
        if found is None or not call.identity.covers(found[0]):
            return ""
        return found[0]


class _Before:
    """A servicer whose calls are passed on if they are about an application of another node."""

    def __init__(
        self, servicer: Any, service: str, rpcs: tuple[str, ...], forwarding: Forwarding
    ) -> None:
        self._servicer = servicer
        self._forwarding = forwarding
        for rpc in rpcs:
            method = _method_of(service, rpc)
            make = self._streamed if method.server_streaming else self._replied
            read = GetMessageClass(method.output_type).FromString
            setattr(self, rpc, make(rpc, f"/{service}/{rpc}", read))

    def __repr__(self) -> str:
        return f"<forwarding before {self._servicer!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)

    def _replied(self, rpc: str, path: str, read: Any) -> Callable[[Any, Call], Any]:
        here, forwarding = getattr(self._servicer, rpc), self._forwarding

        async def forwarded(request: Any, call: Call) -> Any:
            async for node in forwarding.nodes_of(rpc, call):
                if not node:
                    return await here(request, call)
                reply = await forwarding.reply(node, path, call, request, read)
                if reply is not None:
                    return reply
            return None

        return forwarded

    def _streamed(self, rpc: str, path: str, read: Any) -> Callable[[Any, Call], Any]:
        here, forwarding = getattr(self._servicer, rpc), self._forwarding

        async def forwarded(request: Any, call: Call) -> AsyncIterator[Any]:
            async for node in forwarding.nodes_of(rpc, call):
                replies: Any = (
                    forwarding.replies(node, path, call, request, read)
                    if node
                    else here(request, call)
                )
                async with aclosing(replies):
                    is_there = True
                    async for reply in replies:
                        is_there = reply is not None
                        if is_there:
                            yield reply
                if is_there:
                    return

        return forwarded


def _method_of(service: str, rpc: str) -> Any:
    for module in (application_pb2, telemetry_pb2):
        for found in module.DESCRIPTOR.services_by_name.values():
            if found.full_name == service:
                return found.methods_by_name[rpc]
    raise KeyError(service)


def _bytes_of(request: Any) -> bytes:
    told: bytes = request.SerializeToString()
    return told


def _metadata_of(call: Call) -> tuple[tuple[str, str], ...]:
    caller = caller_text(call.identity, peer=call.peer()).decode("ascii")
    trace = ((HEADER, call.traceparent),) if call.traceparent else ()
    return ((HOP, "1"), (CALLER, caller), *trace)


def _error_of(node: str, error: grpc.aio.AioRpcError) -> Exception:
    found = from_grpc(error, address=f"node {node!r}")
    if isinstance(found, PlexSpacesError) and not reason_of(error):
        found.hint = "plexspaces nodes"
    return found
