"""Spans as OpenTelemetry has them, by its conventions for functions, HTTP, messaging and stores.

docs/tracing.md has a table of what is told. Times are the node's own, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from socket import gethostname

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from plexspaces_node.allowed_hosts import NotAHost, split_host
from plexspaces_node.model import split_name
from plexspaces_node.node.telemetry.span import NAME_CHARS, Ended, Kind, Span, Step, start_of
from plexspaces_node.node.telemetry_export.opening import Source

Attributes = dict[str, str | int | bool]

SYSTEM = "plexspaces"
"""What the node is called among systems of messaging and of databases."""

MOST_RESOURCES = 512
"""How many VMs are remembered, so that each is described once."""

_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_FIRST_STATUS, _SERVER_ERROR, _LAST_STATUS = 200, 500, 599
_TRIGGERS = {Kind.TELL: "pubsub"}
_OK = Status(StatusCode.UNSET)


class Conventions:
    """Converts the spans of one node."""

    def __init__(self, source: Source, unix_ns: Callable[[int], int]) -> None:
        """`unix_ns` returns a time of a span as one since the epoch."""
        self._unix_ns = unix_ns
        self._scope = InstrumentationScope("plexspaces-node", source.version)
        # What OTEL_RESOURCE_ATTRIBUTES says is in it.
        self._node = Resource.create(
            {
                "host.name": gethostname(),
                "plexspaces.node.id": source.node_id,
                "plexspaces.isolation": source.isolation,
            }
        )
        self._node_id = source.node_id
        self._resources: dict[tuple[str, str, str], Resource] = {}

    def __repr__(self) -> str:
        return f"<Conventions of {self._node_id}, {len(self._resources)} VMs>"

    def spans(self, ended: Ended) -> Iterator[ReadableSpan]:
        """Yield what has ended: a message with its wait for a start, or a step."""
        span = ended.span
        if ended.step is not None:
            yield self._step(ended.step, span)
            return
        yield self._message(span, is_request=ended.is_request)
        if span.is_cold:
            yield self._step(start_of(span), span)

    def _message(self, span: Span, *, is_request: bool) -> ReadableSpan:
        name, attributes = _request(span) if is_request else _message(span)
        attributes |= {
            "faas.coldstart": span.is_cold,
            "plexspaces.compute_ns": span.compute_ns,
            "plexspaces.wait_ns": span.wait_ns,
            "plexspaces.queue_ns": span.queue_ns,
            "plexspaces.link_ns": max(0, span.link_ns),
            "plexspaces.payload_bytes": span.payload_bytes,
            "plexspaces.reply_bytes": span.reply_bytes,
        }
        kind = SpanKind.CONSUMER if span.kind is Kind.TELL else SpanKind.SERVER
        return self._span(span, span, span.parent_id, name, kind, attributes)

    def _step(self, step: Step, span: Span) -> ReadableSpan:
        kind, name, attributes = SpanKind.INTERNAL, step.name, Attributes()
        if step.kind is Kind.FETCH:
            kind, (name, attributes) = SpanKind.CLIENT, _fetch(step)
        elif step.kind is Kind.STORE:
            name = f"keyvalue {step.name}"
            attributes = {"db.system.name": SYSTEM, "db.operation.name": step.name}
        return self._span(step, span, span.span_id, name, kind, attributes)

    def _span(  # noqa: PLR0913 - all of one
        self,
        one: Span | Step,
        message: Span,
        parent_id: int,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
    ) -> ReadableSpan:
        trace_id = message.identify().trace_id
        start_ns = self._unix_ns(one.begin_ns)
        code, said = one.error or ("", "")
        status = attributes.get("http.response.status_code")
        if isinstance(status, int) and status >= _SERVER_ERROR:
            # By the conventions, of a server also those that it told its client.
            code = str(status)
        if code:
            attributes["error.type"] = code
        return ReadableSpan(
            name,
            _context(trace_id, one.span_id),
            # The one that caused a message is of another VM, or of another host.
            _context(trace_id, parent_id, is_remote=one is message) if parent_id else None,
            self._resource(message),
            attributes,
            kind=kind,
            status=Status(StatusCode.ERROR, said or code) if code else _OK,
            start_time=start_ns,
            end_time=start_ns + one.total_ns,
            instrumentation_scope=self._scope,
        )

    def _resource(self, span: Span) -> Resource:
        """Return who a span is of: an application, in a VM, on this node."""
        key = span.application, span.version, span.vm_id
        if (known := self._resources.get(key)) is not None:
            return known
        tenant, name = split_name(span.application)
        told = {
            "service.name": name,
            "service.namespace": tenant,
            "service.version": span.version,
            "service.instance.id": span.vm_id or self._node_id,
            "faas.name": name,
            "faas.version": span.version,
            "faas.instance": span.vm_id,
        }
        if len(self._resources) >= MOST_RESOURCES:
            self._resources.clear()
        resource = self._node.merge(Resource({key: value for key, value in told.items() if value}))
        self._resources[key] = resource
        return resource


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _message(span: Span) -> tuple[str, Attributes]:
    """Return the name of a message's span, and what is told of it."""
    kind = span.name[:NAME_CHARS]
    attributes: Attributes = {
        "faas.trigger": _TRIGGERS.get(span.kind, "other"),
        "plexspaces.message.type": kind,
    }
    name = split_name(span.application)[1]
    if span.kind is Kind.TELL:
        attributes |= {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "tell",
            "messaging.operation.type": "process",
            "messaging.destination.name": name,
            "messaging.message.body.size": span.payload_bytes,
        }
    return kind or name, attributes


def _request(span: Span) -> tuple[str, Attributes]:
    """Return the name of a span of a request to a component, and what is told of it.

    A query is not: tokens and the like are in it.
    """
    method, _, target = span.name.partition(" ")
    name, attributes = _method(method)
    attributes |= {
        "faas.trigger": "http",
        "url.path": target.partition("?")[0][:NAME_CHARS],
        "http.request.body.size": span.payload_bytes,
        "http.response.body.size": span.reply_bytes,
    }
    # An agent may say anything.
    if _FIRST_STATUS <= span.status <= _LAST_STATUS:
        attributes["http.response.status_code"] = span.status
    return name, attributes


def _fetch(step: Step) -> tuple[str, Attributes]:
    method, _, authority = step.name.partition(" ")
    name, attributes = _method(method)
    # The application has written it, and the node may have refused it for that.
    with suppress(NotAHost):
        host, port = split_host(authority)
        attributes["server.address"] = host.name
        if port is not None:
            attributes["server.port"] = port
    return name, attributes


def _method(method: str) -> tuple[str, Attributes]:
    """Return the name of a span of this method; one that nobody knows is any application's idea."""
    if method in _METHODS:
        return method, {"http.request.method": method}
    return "HTTP", {"http.request.method": "_OTHER", "http.request.method_original": method[:32]}
