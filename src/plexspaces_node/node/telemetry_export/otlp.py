"""A collector that is sent spans by OTLP over HTTP, with OpenTelemetry's own exporter.

That takes headers, certificates, compression and time limits from its own variables,
`OTEL_EXPORTER_OTLP_HEADERS` and so on.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import Any
from weakref import WeakSet

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from requests import RequestException, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from plexspaces_node.node.telemetry.span import Ended
from plexspaces_node.node.telemetry_export.conventions import Conventions
from plexspaces_node.node.telemetry_export.opening import Source

PATH = "/v1/traces"

_SAID_CHARS = 300

_ANSWER_BYTES = 64 * 1024
"""How much is read of what a collector answers; it has nothing to say that is longer."""

_ANSWER_S = 5.0


class OtlpCollector:
    """The collector at an endpoint; an `exporter.Collector`."""

    def __init__(self, endpoint: str, source: Source, unix_ns: Callable[[int], int]) -> None:
        """Set up without a connection; `unix_ns` is as in `Conventions`."""
        self._conventions = Conventions(source, unix_ns)
        self._endpoint = traces_url(endpoint)
        self._connections = _Connections()
        session = _Session()
        adapter = _adapter(self._connections)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        self._exporter = OTLPSpanExporter(self._endpoint, session=session)
        self._complaints = _Complaints()
        self._log = logging.getLogger(OTLPSpanExporter.__module__)
        self._log.addFilter(self._complaints)
        self._is_ended = False

    def __repr__(self) -> str:
        return f"<OtlpCollector {self._endpoint}>"

    def send(self, batch: Sequence[Ended]) -> str:
        """Send spans; tries for as long as the exporter does, by default 10 s."""
        spans = _InTurns(span for ended in batch for span in self._conventions.spans(ended))
        self._complaints.first = ""
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            return ""
        return self._complaints.first or f"{self._endpoint} did not take them"

    def abort(self) -> None:
        """End everything: also a request that is under way."""
        if self._is_ended:
            return
        self._is_ended = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._connections.end()

    def close(self) -> None:
        """Leave the exporter's log as it was."""
        self._log.removeFilter(self._complaints)


def traces_url(endpoint: str) -> str:
    """Return where a collector takes traces."""
    url = endpoint.rstrip("/")
    return url if url.endswith(PATH) else url + PATH


class _InTurns(list[ReadableSpan]):
    """Spans that let other threads run after each.

    To encode one takes 40 to 90 µs, and 5 ms pass until Python takes a thread's turn from it: so
    long would messages wait, again and again during a batch.
    """

    def __iter__(self) -> Iterator[ReadableSpan]:
        for span in super().__iter__():
            yield span
            sleep(0)


class _Complaints(logging.Filter):
    """Keeps what the exporter says of each failure out of the log, and the first for a summary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or record.getMessage()[:_SAID_CHARS]
        return False


class _Session(Session):
    """A session whose own authority counts, whatever the host has for other programs.

    Of an answer its status and headers count, and the rest is not kept, however long it is.
    """

    def request(self, *args: Any, **kwargs: Any) -> Response:
        """Send a request; raises `RequestException`, also for a redirection: none is followed."""
        response = super().request(*args, **kwargs | {"stream": True})
        _drain(response)
        if response.is_redirect:
            # For the exporter everything below 400 means that it was taken.
            raise RequestException(f"it answered {response.status_code}, and is elsewhere")
        return response

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        # Otherwise REQUESTS_CA_BUNDLE would count more than OTEL_EXPORTER_OTLP_CERTIFICATE.
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


def _drain(response: Response) -> None:
    """Read a short body to its end, so that its connection serves again, and end a longer one's."""
    left, until_s = _ANSWER_BYTES, monotonic() + _ANSWER_S
    with suppress(HTTPError):
        while left > 0 and monotonic() < until_s:
            piece = response.raw.read1(left, decode_content=False)
            if not piece:
                return
            left -= len(piece)
    response.close()


class _Connections:
    """The connections to a collector. Nothing else can end one that waits for an answer."""

    def __init__(self) -> None:
        self._opened: WeakSet[HTTPConnection] = WeakSet()
        self._is_ended = False

    def check(self) -> None:
        """Raise `ConnectionAbortedError` after the end: the exporter tries once more by itself."""
        if self._is_ended:
            raise ConnectionAbortedError("the node ends")

    def opened(self, connection: HTTPConnection) -> None:
        """Take a connection that is open now; raises if it should not be any more."""
        self._opened.add(connection)
        try:
            self.check()
        except ConnectionAbortedError:
            connection.close()
            raise

    def end(self) -> None:
        """End all of them, and those that are opened from now on; from another thread."""
        self._is_ended = True
        for connection in list(self._opened):
            if (sock := connection.sock) is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


def _adapter(connections: _Connections) -> HTTPAdapter:
    """Return what makes the connections of a session."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            connections.check()
            super().connect()
            connections.opened(self)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            connections.check()
            super().connect()
            connections.opened(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    return Adapter()
