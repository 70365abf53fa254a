"""Opens the way to a collector, with what the extra `otel` has installed."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from plexspaces_node.errors import Unsupported
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.node.telemetry_export.exporter import Collector, Exporter

INSTALL = "pip install 'plexspaces-node[otel]'"
_OTLP = "plexspaces_node.node.telemetry_export.otlp"


class Source(NamedTuple):
    """Which node spans are from."""

    node_id: str
    version: str
    isolation: str


def check_installed(endpoint: str) -> None:
    """Raise `Unsupported` if traces are to be sent and what sends them is not installed.

    Otherwise loads it, which takes a second.
    """
    if not endpoint:
        return
    try:
        import_module(_OTLP)
    except ImportError as error:
        raise Unsupported(
            f"traces are to be sent to {endpoint}, by [otel] endpoint, and the extra `otel` is not "
            f"installed: {error}",
            hint=INSTALL,
        ) from error


def exporting(endpoint: str, source: Source, telemetry: Telemetry) -> Exporter:
    """Send the traces of a node to a collector from now on; the caller closes what is returned."""
    collector: Collector = import_module(_OTLP).OtlpCollector(endpoint, source, telemetry.unix_ns)
    exporter = Exporter(collector)
    telemetry.export = exporter.take
    telemetry.dropped_spans = lambda: exporter.dropped
    return exporter
