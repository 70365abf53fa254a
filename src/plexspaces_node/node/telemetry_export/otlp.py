"""A collector that is sent spans by OTLP over HTTP, with OpenTelemetry's own exporter.

That takes headers, certificates, compression and time limits from its own variables,
`OTEL_EXPORTER_OTLP_HEADERS` and so on.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import sleep
from typing import Any
from weakref import WeakSet

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from requests import Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from plexspaces_node.node.telemetry.span import Ended
from plexspaces_node.node.telemetry_export.conventions import Conventions
from plexspaces_node.node.telemetry_export.opening import Source

PATH = "/v1/traces"

_SAID_CHARS = 300


class OtlpCollector:
    """The collector at an endpoint; an `exporter.Collector`."""

    def __init__(self, endpoint: str, source: Source, unix_ns: Callable[[int], int]) -> None:
        """Set up without a connection; `unix_ns` is as in `Conventions`."""
        self._conventions = Conventions(source, unix_ns)
        self._endpoint = traces_url(endpoint)
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        session = Session()
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
        spans: list[ReadableSpan] = []
        for ended in batch:
            spans.extend(self._conventions.spans(ended))
            # So that the event loop does not wait for all of them.
            sleep(0)
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
        for connection in list(self._connections):
            if (sock := connection.sock) is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._log.removeFilter(self._complaints)


def traces_url(endpoint: str) -> str:
    """Return where a collector takes traces."""
    url = endpoint.rstrip("/")
    return url if url.endswith(PATH) else url + PATH


class _Complaints(logging.Filter):
    """Keeps what the exporter says of each failure out of the log, and the first for a summary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or record.getMessage()[:_SAID_CHARS]
        return False


def _adapter(connections: WeakSet[HTTPConnection]) -> HTTPAdapter:
    """Return what makes connections, and notes them: nothing else can end one that waits."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            connections.add(self)
            super().connect()

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            connections.add(self)
            super().connect()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    return Adapter()
