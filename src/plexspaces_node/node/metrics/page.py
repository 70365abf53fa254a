"""The text that a scrape gets: in Prometheus' text format, or in OpenMetrics with exemplars.

`prometheus_client`'s parsers read in tests what is written here. Its own
writer takes six times as long: see docs/decisions/037-metrics-are-written-here.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from time import sleep

from prometheus_client.metrics_core import Metric

from plexspaces_node.node.metrics.families import Family, Kind
from plexspaces_node.node.telemetry.durations import BOUNDS_S, Buckets

_LE = (*(f'le="{bound!r}"' for bound in BOUNDS_S), 'le="+Inf"')
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

_LINES_AT_ONCE = 400
"""Lines that are written without letting the event loop have its turn: half a millisecond.
Otherwise each of its turns would wait for 5 ms, until the interpreter interrupts this thread."""
_PAUSE_S = 0.0002


def labels_of(names: Iterable[str], values: Iterable[str]) -> str:
    """Return labels as a line has them."""
    pairs = zip(names, values, strict=True)
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)


class Page:
    """The text of one scrape. Used on one thread, while others change what is read."""

    def __init__(self, *, is_openmetrics: bool) -> None:
        self._is_openmetrics = is_openmetrics
        self._lines: list[str] = []
        self._paused_at = 0

    def __repr__(self) -> str:
        return f"<Page of {len(self._lines)} lines>"

    def add(self, family: Family, samples: Iterable[tuple[str, float]]) -> None:
        """Write a counter or a gauge: the labels and the value of each of its samples."""
        self._begin(family.name, family.kind, family.meaning)
        for labels, value in samples:
            self._lines.append(f"{_named(family.name, labels)} {float(value)!r}\n")
            self._pause()

    def add_histograms(self, family: Family, samples: Iterable[tuple[str, Buckets]]) -> None:
        """Write a histogram: the labels and the buckets of each of its samples."""
        self._begin(family.name, family.kind, family.meaning)
        for labels, buckets in samples:
            self._histogram(family.name, labels, buckets)
            self._pause()

    def add_other(self, metrics: Iterable[Metric]) -> None:
        """Write what a collector of `prometheus_client` has, without labels."""
        for metric in metrics:
            suffix = "_total" if metric.type == Kind.COUNTER else ""
            self._begin(metric.name + suffix, Kind(metric.type), metric.documentation)
            self._lines += (f"{one.name} {float(one.value)!r}\n" for one in metric.samples)

    def text(self) -> bytes:
        """Return all of it; call once."""
        if self._is_openmetrics:
            self._lines.append("# EOF\n")
        return "".join(self._lines).encode()

    def _begin(self, name: str, kind: Kind, meaning: str) -> None:
        if self._is_openmetrics:
            name = name.removesuffix("_total")
        self._lines.append(f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n")

    def _histogram(self, name: str, labels: str, buckets: Buckets) -> None:
        # A copy, in one step: others count while this is written.
        counts, sum_ns = tuple(buckets.counts), buckets.sum_ns
        before = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
        exemplars = dict(buckets.exemplars) if self._is_openmetrics else {}
        lines = self._lines
        total = 0
        for index, (le, total) in enumerate(zip(_LE, accumulate(counts), strict=True)):
            lines.append(f"{before}{le}}} {total}{_shown(exemplars, index)}\n")
        lines.append(f"{_named(name + '_sum', labels)} {sum_ns / 1e9!r}\n")
        lines.append(f"{_named(name + '_count', labels)} {total}\n")

    def _pause(self) -> None:
        if len(self._lines) - self._paused_at >= _LINES_AT_ONCE:
            self._paused_at = len(self._lines)
            sleep(_PAUSE_S)


def _named(name: str, labels: str) -> str:
    return f"{name}{{{labels}}}" if labels else name


def _shown(exemplars: Mapping[int, tuple[int, int, int]], index: int) -> str:
    if index not in exemplars:
        return ""
    trace_id, duration_ns, unix_ns = exemplars[index]
    return f' # {{trace_id="{trace_id:032x}"}} {duration_ns / 1e9!r} {unix_ns / 1e9:.3f}'
