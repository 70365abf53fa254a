"""Prometheus metrics of a node, gathered when they are asked for and not on any message's path.

Every metric is in `METRICS`; `docs/metrics.md` is compared with it by a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.supervisor import Supervisor

_NANO = 1e-9

Value = Callable[[Supervisor], float]

METRICS: dict[str, tuple[str, Value]] = {
    "plexspaces_messages_total": ("Messages answered.", lambda s: s.tally.messages),
    "plexspaces_message_failures_total": (
        "Messages that ended in an error of actor or platform.",
        lambda s: s.tally.failures,
    ),
    "plexspaces_compute_seconds_total": (
        "Time inside the actor's own code.",
        lambda s: s.tally.compute_ns * _NANO,
    ),
    "plexspaces_coordinate_seconds_total": (
        "Time of messages outside the actor's own code.",
        lambda s: s.tally.coordinate_ns * _NANO,
    ),
    "plexspaces_vm_restarts_total": (
        "Machines started anew because one ended by itself.",
        lambda s: s.restarts,
    ),
}
"""Counters an application, since the node started: name, meaning, where the value comes from."""

APPLICATIONS = ("plexspaces_applications", "Applications by state.")
STORE = (
    "plexspaces_artifact_store_bytes",
    "Room that artifacts and their compiled forms take up on the disk.",
)


class NodeCollector(Collector):
    """Reads what a node has, from the thread that serves the scrape."""

    def __init__(
        self,
        supervisors: Callable[[], Iterable[Supervisor]],
        store_bytes: Callable[[], int],
    ) -> None:
        self._supervisors = supervisors
        self._store_bytes = store_bytes

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric as it is now."""
        supervisors = list(self._supervisors())
        for name, (meaning, value) in METRICS.items():
            family = CounterMetricFamily(
                name.removesuffix("_total"), meaning, labels=["application"]
            )
            for supervisor in supervisors:
                family.add_metric([supervisor.name], value(supervisor))
            yield family
        states = GaugeMetricFamily(*APPLICATIONS, labels=["state"])
        for state, count in Counter(s.state for s in supervisors).items():
            states.add_metric([state], count)
        yield states
        yield GaugeMetricFamily(*STORE, value=self._store_bytes())


@contextmanager
def serve_metrics(
    address: str,
    supervisors: Callable[[], Iterable[Supervisor]],
    store_bytes: Callable[[], int],
) -> Iterator[int | None]:
    """Serve metrics over HTTP at HOST:PORT while inside, and yield the port; "" serves nothing.

    Raises `Unavailable` when the port is in use. Scrapes run on a thread of their own.
    """
    if not address:
        yield None
        return
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(supervisors, store_bytes))
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
    except OSError as error:
        raise Unavailable(
            f"cannot serve metrics on {address}: {error.strerror}",
            hint="choose another [node] metrics_address, or none",
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
