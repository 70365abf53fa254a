"""Prometheus metrics of a node, collected during a scrape and not on any message's path.

A port of its own serves all of them to whoever reaches it; the HTTP port serves what the caller has
to do with, by `scraped`.

Every metric is in `METRICS`; `docs/metrics.md` is compared with it by a test.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    generate_latest,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import split_name
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.vms import Viewer

_NANO = 1e-9

Value = Callable[[Supervisor], float]

METRICS: dict[str, tuple[str, Value]] = {
    "plexspaces_messages_total": ("Messages answered.", lambda s: s.activity.messages),
    "plexspaces_message_failures_total": (
        "Messages that ended in an error of the actor or the platform.",
        lambda s: s.activity.failures,
    ),
    "plexspaces_compute_seconds_total": (
        "Time inside the actor's own code.",
        lambda s: s.activity.compute_ns * _NANO,
    ),
    "plexspaces_coordinate_seconds_total": (
        "Time of messages outside the actor's own code.",
        lambda s: s.activity.coordinate_ns * _NANO,
    ),
    "plexspaces_vm_restarts_total": (
        "Machines restarted because one ended by itself.",
        lambda s: s.restarts,
    ),
}
"""Counters per application, since the node started: name, meaning, where the value comes from."""

APPLICATIONS = ("plexspaces_applications", "Applications by state.")
STORE = (
    "plexspaces_artifact_store_bytes",
    "Disk space that artifacts and their native code take up.",
)
DAMAGES = (
    "plexspaces_registry_damage_total",
    "How often the registry was found damaged.",
)


SCRAPES = 16
"""The maximum number of connections; one more ends the oldest."""

SCRAPE_S = 10.0
"""How long a connection can last: one that asks for nothing holds a thread and a descriptor."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Where the values come from; each is called on the thread that serves a scrape."""

    supervisors: Callable[[], Iterable[Supervisor]]
    store_bytes: Callable[[], int]
    damages: Callable[[], int]


class NodeCollector(Collector):
    """Reads the node's values on the thread that serves the scrape."""

    def __init__(self, readings: Readings, viewer: Viewer | None = None) -> None:
        """Collect what a viewer may see, None for everything."""
        self._readings = readings
        self._viewer = viewer

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric with its current value."""
        readings, viewer = self._readings, self._viewer
        supervisors = list(readings.supervisors())
        if viewer is not None:
            supervisors = [one for one in supervisors if viewer.covers(one.name)]
        for name, (meaning, value) in METRICS.items():
            family = CounterMetricFamily(
                name.removesuffix("_total"), meaning, labels=["application", "tenant"]
            )
            for supervisor in supervisors:
                tenant, application = split_name(supervisor.name)
                family.add_metric([application, tenant], value(supervisor))
            yield family
        states = GaugeMetricFamily(*APPLICATIONS, labels=["state"])
        for state, count in Counter(s.state for s in supervisors).items():
            states.add_metric([state], count)
        yield states
        if viewer is not None and not viewer.is_of_all():
            return
        yield GaugeMetricFamily(*STORE, value=readings.store_bytes())
        name, meaning = DAMAGES
        yield CounterMetricFamily(name.removesuffix("_total"), meaning, value=readings.damages())


def scraped(readings: Readings, viewer: Viewer) -> tuple[str, bytes]:
    """Return the metrics that a viewer may see, after their content type; on any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(readings, viewer))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


@contextmanager
def serve_metrics(
    address: str, readings: Readings, *, scrape_s: float = SCRAPE_S
) -> Iterator[int | None]:
    """Serve metrics over HTTP at HOST:PORT in the body, and yield the port; "" serves nothing.

    Raises `Unavailable` if the port is in use. Scrapes run on a thread of their own.
    """
    if not address:
        yield None
        return
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(readings))
    try:
        server = _listen(host.strip("[]"), int(port), registry, scrape_s)
    except OSError as error:
        raise Unavailable(
            f"cannot serve metrics on {address}: {error.strerror}",
            hint="choose another [node] metrics_address, or none",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(host: str, port: int, registry: CollectorRegistry, lasts_s: float) -> WSGIServer:
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    class Server(ScrapeServer):
        address_family = places[0][0]
        scrape_s = lasts_s

    return make_server(host, port, make_wsgi_app(registry), Server, _Handler)


class ScrapeServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each scrape on its own thread; limited in number and time."""

    daemon_threads = True
    scrape_s = SCRAPE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Start times by connection. Changed by the accepting thread and by those that answer.
        self._since_s: dict[socket.socket, float] = {}
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, and end the oldest connection if there are too many."""
        # In order of arrival.
        open_ones = list(self._since_s)
        if len(open_ones) >= SCRAPES:
            self._end(open_ones[0])
        self._since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that have lasted too long; called twice a second."""
        oldest_s = time.monotonic() - self.scrape_s
        for request, since_s in list(self._since_s.items()):
            if since_s < oldest_s:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        # Its thread then reads the end and closes it.
        self._since_s.pop(request, None)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not report a client that disconnected."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not report a scrape."""
