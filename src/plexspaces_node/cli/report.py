"""Formats a performance report: as text for people, as a dict for programs."""

from __future__ import annotations

import math

from plexspaces_node.cli.output import NS_PER_MS, printable
from plexspaces_node.tracker import PerformanceReport

TITLE = "=== Polyglot WASM Deployment Performance Report ==="
ACCEPTABLE_RATIO = 10
EXCELLENT_RATIO = 100


def render(report: PerformanceReport, isolation: str) -> str:
    """Return the report as lines of text; `isolation` is the level it was measured at.

    Upload and compilation that were not needed are 0 ms. Load includes init and the rest of the
    deploy.
    """
    lines = (
        TITLE,
        f"Actor: {printable(report.actor_id)} ({printable(report.language)})",
        f"Isolation: {printable(isolation)}",
        "",
        "Timing:",
        f"  Compute Time:     {_ms(report.compute_ns)}",
        f"  Coordinate Time:   {_ms(report.coordinate_ns)}",
        f"  Total Time:       {_ms(report.total_ns)}",
        "",
        "Operations:",
        f"  Messages:           {report.messages:>6}",
        "",
        "Performance:",
        f"  Granularity Ratio: {_ratio(report.granularity_ratio):>8} (compute/coordinate)",
        f"    {verdict(report.granularity_ratio)}",
        f"  Efficiency:         {_percent(report.efficiency):>7} (compute/total)",
        "",
        "Coordination:",
        f"  VM:               {_ms(report.vm_ns)}",
        f"  Upload:           {_ms(report.upload_ns)}",
        f"  Compile:          {_ms(report.compile_ns)}",
        f"  Load:             {_ms(report.load_ns)}",
        f"  Messages:         {_ms(report.messages_ns)}",
        f"  Ratio without deployment: {_ratio(report.ratio_without_deployment)} (compute/messages)",
    )
    return "\n".join(lines)


def verdict(ratio: float) -> str:
    """Describe a granularity ratio in a few words."""
    if math.isnan(ratio):
        return "–  Nothing was measured"
    if ratio < ACCEPTABLE_RATIO:
        return "⚠  Warning (<10×): too much of the time is coordination"
    if ratio < EXCELLENT_RATIO:
        return "✓  Acceptable (>10×), but could be better"
    return "✓  Excellent (>=100×)"


def as_dict(report: PerformanceReport, isolation: str) -> dict[str, object]:
    """Return the report with every time in nanoseconds; a ratio that does not exist is None."""
    return {
        "actor": report.actor_id,
        "language": report.language,
        "isolation": isolation,
        "messages": report.messages,
        "compute_ns": report.compute_ns,
        "coordinate_ns": report.coordinate_ns,
        "total_ns": report.total_ns,
        "coordination": {
            "vm_ns": report.vm_ns,
            "upload_ns": report.upload_ns,
            "compile_ns": report.compile_ns,
            "load_ns": report.load_ns,
            "messages_ns": report.messages_ns,
        },
        "granularity_ratio": _finite(report.granularity_ratio),
        "efficiency": _finite(report.efficiency),
        "ratio_without_deployment": _finite(report.ratio_without_deployment),
    }


def _ms(duration_ns: int) -> str:
    value = duration_ns / NS_PER_MS
    # Below 10 ms two decimals are shown, or short messages would seem to cost nothing.
    text = f"{value:.0f}" if value >= 10 or duration_ns == 0 else f"{value:.2f}"
    return f"{text:>6} ms"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "∞×" if math.isinf(value) else f"{value:.2f}×"


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value * 100:.1f}%"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
