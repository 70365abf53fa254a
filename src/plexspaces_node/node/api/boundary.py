"""Between gRPC and the node's services: parses requests, counts calls, converts errors.

Everything that is served goes through a `Boundary`: calls over the limit are refused before
anything is done for them, then those that the gate does not let in; a request that cannot be parsed
is an error of the caller and reported only to the caller. Knows no service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from plexspaces_node.api.status import to_grpc
from plexspaces_node.errors import (
    ActorError,
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unauthenticated,
    Unsupported,
)
from plexspaces_node.node.access import fair_share
from plexspaces_node.node.access.gate import Call, Gate
from plexspaces_node.node.access.identity import NOBODY, Identity
from plexspaces_node.node.access.policy import About, Target
from plexspaces_node.node.access.record import REFUSALS
from plexspaces_node.node.api import descriptors
from plexspaces_node.node.api.granted import replied, streamed
from plexspaces_node.trace_context import HEADER

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_Behavior = Callable[[Any, Any], Any]

_Enter = Callable[[Any, Context], tuple[Identity, Any, Any]]
"""From a call as gRPC has it to who makes it, its request, and the `Call` or the context for the
behavior."""

SHORT_BYTES = 4 * 1024
"""The longest request whose sender, unknown, waits to be told so."""

MOST_WAITING = 2000
"""How many unknown callers wait to be told so; more are told at once, for each takes memory."""

_GRPC_LOG = "grpc._cython.cygrpc"

_FACTORIES: Mapping[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether requests and whether replies are streams."""


class Boundary:
    """Replaces the server where the generated code registers its services.

    It is not an interceptor, which would take a third of the time of an empty call. And gRPC itself
    would log a traceback for each request that cannot be parsed, and answer UNKNOWN.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        gate: Gate,
        *,
        most_calls: int,
        certificate_of: Callable[[Context], str] = lambda _: "",
        caller_of: Callable[[Context], tuple[Identity, str]] | None = None,
    ) -> None:
        """Serve with `server` what `gate` lets in, at most this many calls at once.

        `certificate_of` returns the name in a client's certificate, "" for none. If other nodes
        call, `caller_of` returns for whom, and by which connection that came to them.
        """
        self._caller_of = caller_of
        logging.getLogger(_GRPC_LOG).addFilter(_is_news)
        self._server = server
        self._gate = gate
        self._certificate_of = certificate_of
        self._most_calls = most_calls
        # Of callers that are unknown, until they are told so.
        self._waiting = 0
        self.calls = 0
        """How many calls are being handled."""
        self._share = fair_share.calls(most_calls)
        self._streams: Counter[str] = Counter()
        """How many of them are streams of replies, which can last long, by connection."""

    def __repr__(self) -> str:
        return f"<Boundary {self.calls} of {self._most_calls} calls>"

    def serve(self, add: Callable[..., None], servicer: object) -> None:
        """Serve a servicer; `add` is the generated function that adds it to a server."""
        add(servicer, self)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Do nothing: the generated code also registers the same methods by name, which is used."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Serve the methods of a service; they replace earlier ones of the same name.

        Raises `KeyError` for a method that the policy does not have.
        """
        guarded = {
            name: self._guarded(f"{service_name}/{name}", handler)
            for name, handler in method_handlers.items()
        }
        self._server.add_registered_method_handlers(service_name, guarded)

    def _guarded(self, verb: str, handler: Handler) -> Handler:
        kind = bool(handler.request_streaming), bool(handler.response_streaming)
        behavior: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        behavior = self._gate.recorder.recorded(verb, self._gate.rule(verb), behavior)
        enter = self._entering(verb, handler.request_deserializer, each=kind[0])
        # For streams of replies gRPC also allows coroutines that write the replies themselves.
        is_generator = inspect.isasyncgenfunction(behavior)
        if is_generator:
            guarded: Any = self._yielding(enter, behavior)
        else:
            guarded = self._replying(enter, behavior, lasts=any(kind))
        return _FACTORIES[kind](guarded, response_serializer=handler.response_serializer)

    def _entering(self, verb: str, read: Any, *, each: bool) -> _Enter:
        """Return what lets a call in: it is known who calls before their request is parsed."""
        gate, rule, recorder = self._gate, self._gate.rule(verb), self._gate.recorder
        take = _parser(read, each=each)
        # The services of gRPC itself are written for its own context.
        is_foreign = verb.startswith("grpc.")

        def enter(raw: Any, context: Context) -> tuple[Identity, Any, Any]:
            # Asked for once, and now: after the end of a call gRPC's context crashes the process.
            identity, peer, about = NOBODY, context.peer(), ""
            authorization, traceparent = _said(context)
            try:
                try:
                    if self._caller_of is not None:
                        identity, peer = self._caller_of(context)
                    else:
                        identity = self._gate.identify(
                            authorization,
                            certificate=self._certificate_of(context),
                            is_local=peer.startswith("unix"),
                        )
                except Unauthenticated as error:
                    if not rule.public:
                        raise
                    # To what is public somebody may come with a token that the node does not know.
                    request, target = admit_anybody(raw, error)
                else:
                    request, target = admit(raw, identity)
                    about = target.application
                    if rule.about is not About.NOTHING:
                        gate.check(verb, identity, target)
            except REFUSALS as error:
                recorder.refused(error, verb, peer=peer, identity=identity, about=about)
                raise
            if is_foreign:
                return identity, request, context
            return (
                identity,
                request,
                Call(
                    identity,
                    target,
                    peer=peer,
                    left_s=context.time_remaining,
                    # The stubs require a class where any function works.
                    done=cast(Any, context.add_done_callback),
                    traceparent=traceparent,
                ),
            )

        def admit_anybody(raw: Any, unproved: Unauthenticated) -> tuple[Any, Target]:
            request = take(raw)
            target = gate.target(rule, NOBODY, request)
            if not gate.is_public(target.application):
                raise unproved
            return request, target

        def admit(raw: Any, identity: Identity) -> tuple[Any, Target]:
            if rule.about is About.NOTHING:
                target = Target()
                gate.check(verb, identity, target)
                return take(raw), target
            gate.check_known(rule, identity)
            request = take(raw)
            return request, gate.target(rule, identity, request)

        return enter

    def _replying(
        self, enter: _Enter, behavior: _Behavior, *, lasts: bool
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return what handles a call with one reply, or that writes its replies itself."""

        async def call(raw: Any, context: Context) -> Any:
            self.calls += 1
            unknown: Unauthenticated | None = None
            tenant: str | None = None
            try:
                if self.calls > self._most_calls:
                    raise self._too_many()
                identity, request, entered = enter(raw, context)
                tenant = self._count(identity)
                reply = behavior(request, entered)
                return await (replied(self._gate, identity, reply) if lasts else reply)
            except Unauthenticated as error:
                # Without its frames: this one has the request, and would be in a cycle.
                unknown = error.with_traceback(None)
            except Exception as error:  # noqa: BLE001 - the boundary
                await _abort(error, context)
            finally:
                self.calls -= 1
                if tenant is not None:
                    self._share.give(tenant)
            if unknown is not None:
                await self._refuse(unknown, raw, context)
            return None

        return call

    def _yielding(
        self, enter: _Enter, behavior: _Behavior
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(raw: Any, context: Context) -> AsyncIterator[Any]:
            peer = context.peer()
            self.calls += 1
            self._streams[peer] += 1
            unknown: Unauthenticated | None = None
            tenant: str | None = None
            try:
                if self.calls > self._most_calls:
                    raise self._too_many()
                if self._streams[peer] > max(1, self._most_calls // 2):
                    raise self._too_many_streams()
                identity, request, entered = enter(raw, context)
                tenant = self._count(identity)
                responses = streamed(self._gate, identity, behavior(request, entered))
                async with aclosing(responses):
                    async for response in responses:
                        yield response
            except Unauthenticated as error:
                # Without its frames: this one has the request, and would be in a cycle.
                unknown = error.with_traceback(None)
            except Exception as error:  # noqa: BLE001 - the boundary
                await _abort(error, context)
            finally:
                self.calls -= 1
                if tenant is not None:
                    self._share.give(tenant)
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]
            if unknown is not None:
                await self._refuse(unknown, raw, context)

        return call

    def _count(self, identity: Identity) -> str:
        """Count a call for whoever makes it; return for whom. Raises `ResourceExhausted`."""
        tenant = fair_share.tenant_of(identity)
        self._share.check(tenant, self.calls - 1)
        self._share.take(tenant)
        return tenant

    async def _refuse(self, error: Unauthenticated, raw: Any, context: Context) -> None:
        """Tell somebody unknown so; it does not count as a call that is handled.

        With a long request nobody waits: gRPC keeps it in memory until the end of its call.
        """
        delay_s = self._gate.pace.next_s()
        is_short = not isinstance(raw, bytes) or len(raw) <= SHORT_BYTES
        if delay_s and is_short and self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                await asyncio.sleep(delay_s)
            finally:
                self._waiting -= 1
        await _abort(error, context)

    def _too_many_streams(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"this connection has {self._most_calls // 2} streams, its half of [limits] calls",
            hint="close some of them",
        )

    def _too_many(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"too many calls at once ({self._most_calls})",
            hint="send fewer at a time, or raise [limits] calls",
        )


def _said(context: Context) -> tuple[bytes | None, str]:
    """Return what a call's metadata say: `authorization`, and `traceparent`, "" without."""
    authorization, traceparent = None, ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and authorization is None:
            authorization = value.encode() if isinstance(value, str) else value
        elif key == HEADER and isinstance(value, str):
            traceparent = value
    return authorization, traceparent


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record of gRPC is more than a client that left during its answer."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "ExecuteBatchError"


def _parser(read: Callable[[bytes], Any] | None, *, each: bool) -> Callable[[Any], Any]:
    """Return what parses a request, or each of a stream."""

    def readable(raw: bytes) -> Any:
        if read is None:
            return raw
        try:
            return read(raw)
        except DecodeError as error:
            raise InvalidArgument(
                f"the request cannot be read: {error}",
                hint="use the node's own application.proto",
            ) from error

    async def readable_each(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in stream:
            yield readable(raw)

    return readable_each if each else readable


async def _abort(error: Exception, context: Context) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, text, metadata = to_grpc(known_error(error))
    await context.abort(code, text, metadata)


def known_error(error: Exception) -> PlexSpacesError | ActorError:
    """Return an error as one that clients know; a defect is logged, and becomes `Internal`."""
    if descriptors.are_what_lacked(error):
        return descriptors.none_left()
    if isinstance(error, PlexSpacesError | ActorError):
        return error
    if isinstance(error, NotImplementedError):
        # As the generated classes have it; of health checks, `List`.
        return Unsupported("this node does not have this method")
    _log.error("internal error in a call", exc_info=error)
    return Internal(f"internal error: {error!r}", hint="see the node's log, and report it")
