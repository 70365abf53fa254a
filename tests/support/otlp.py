"""A collector of OpenTelemetry for tests: it takes OTLP over HTTP, and keeps what it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        goes_on: while it is not set, requests are not answered.
        headers: of the last request.
        requests: how many have come.
    """

    endpoint: str = ""
    status: int = 200
    goes_on: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
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
def receiver(port: int = 0) -> Iterator[Receiver]:
    """Run a collector; it is gone, with its port, at the end."""
    found = Receiver()
    found.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.take(self.path, headers, body)
            found.goes_on.wait()
            said = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client may leave."""

    server = Server(("127.0.0.1", port), Handler)
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        found.goes_on.set()
        server.shutdown()
        server.server_close()
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
