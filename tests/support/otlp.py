"""A collector of OpenTelemetry for tests: it takes OTLP over HTTP, and keeps what it was sent."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.patience import patient

from plexspaces_node.telemetry import SpanKind, Trace


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    span: Span
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def duration_ns(self) -> int:
        return self.span.end_time_unix_nano - self.span.start_time_unix_nano

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])


@dataclass
class Receiver:
    """What a collector has, and how it behaves.

    Attributes:
        endpoint: where it takes traces.
        status: what it answers.
        body: what it says with that; None for what a collector says.
        goes_on: while it is not set, requests are not answered.
        headers: of the last request.
        requests: how many have come.
        port: where the last one came from.
    """

    endpoint: str = ""
    status: int = 200
    body: bytes | None = None
    goes_on: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    port: int = 0
    spans: list[Received] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            self.headers, self.requests = headers, self.requests + 1
            if self.status == 200:
                self.spans += _received(request)
            self.changed.notify_all()

    def wait(self, is_there: Callable[[Receiver], object]) -> None:
        """Wait until it has what is looked for; blocks."""
        with self.changed:
            assert self.changed.wait_for(lambda: is_there(self), patient(20)), self.names()

    def of(self, trace_id: str) -> list[Received]:
        """Return the spans of a trace, in the order of their beginnings."""
        found = [one for one in self.spans if one.trace_id == trace_id]
        return sorted(found, key=lambda one: one.span.start_time_unix_nano)

    def names(self) -> list[str]:
        return [f"{one.service} {one.span.name} {one.trace_id}" for one in self.spans]


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a collector; it is gone, with its port, at the end."""
    found = Receiver()
    found.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.port = self.client_address[1]
            found.take(self.path, headers, body)
            found.goes_on.wait()
            said = ExportTraceServiceResponse().SerializeToString()
            said = said if found.body is None else found.body
            self.send_response(found.status)
            self.send_header("location", f"{found.endpoint}/elsewhere")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    connections: list[socket.socket] = []

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, address = super().get_request()
            connections.append(connection)
            return connection, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client may leave."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    found.endpoint = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        found.goes_on.set()
        server.shutdown()
        server.server_close()
        for connection in connections:
            # Closed already, if its client has left.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def _received(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope in resource_spans.scope_spans:
            assert scope.scope.name == "plexspaces-node"
            for span in scope.spans:
                yield Received(span, _attributes(span.attributes), resource)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    return getattr(value, value.WhichOneof("value") or "string_value")


CLOCK_NS = 5_000_000
"""By how much two readings of one moment may differ: the node sets its clock every 2 s."""

_PARTS = ("compute_ns", "wait_ns", "queue_ns", "link_ns", "payload_bytes", "reply_bytes")
_MESSAGES = (SpanKind.MESSAGE, SpanKind.ASK, SpanKind.TELL)


def assert_as_measured(received: list[Received], trace: Trace) -> None:
    """Fail unless what a collector has of a trace is what the node measured, to the nanosecond."""
    told = {one.span_id: one for one in received}
    assert len(told) == len(received), "each is sent once"
    assert set(told) == {span.span_id for span in trace.spans}
    for span in trace.spans:
        one = told[span.span_id]
        assert (one.trace_id, one.parent_id) == (trace.trace_id, span.parent_id)
        assert one.duration_ns == span.total_ns > 0
        assert abs(one.span.start_time_unix_nano - span.start_unix_ns) < CLOCK_NS
        tenant, _, name = span.application.rpartition("/")
        assert (one.resource["service.namespace"], one.service) == (tenant or "default", name)
        assert one.attributes.get("error.type", "") == span.error_code
        assert one.span.status.message == (span.error or span.error_code)
        if span.kind not in _MESSAGES:
            continue
        parts = {part: one.attributes[f"plexspaces.{part}"] for part in _PARTS}
        assert parts == {part: getattr(span, part) for part in _PARTS}
        assert sum(parts[part] for part in _PARTS[:4]) == one.duration_ns
        assert one.attributes["faas.coldstart"] == span.cold_start
        assert one.resource["service.instance.id"] == span.vm_id
        assert one.resource["service.version"] == span.version
