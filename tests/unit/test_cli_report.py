"""The performance report reads exactly as it was promised."""

from __future__ import annotations

import json

import pytest

from plexspaces_node.cli.report import as_dict, render, verdict
from plexspaces_node.tracker import PerformanceReport

MS = 1_000_000

PROMISED = """\
=== Polyglot WASM Deployment Performance Report ===
Actor: actor-123 (rust)
Isolation: process

Timing:
  Compute Time:        300 ms
  Coordinate Time:       30 ms
  Total Time:          330 ms

Operations:
  Messages:               10

Performance:
  Granularity Ratio:   10.00× (compute/coordinate)
    ✓  Acceptable (>10×), but could be better
  Efficiency:           90.9% (compute/total)
"""


def test_report_when_rendered_then_it_is_the_promised_text_and_the_breakdown() -> None:
    """Every line and column is as in the specification; the parts of coordination follow."""
    report = PerformanceReport(
        "actor-123", "rust", 300 * MS, 12 * MS, 3 * MS, 0, 10 * MS, 5 * MS, 10
    )
    text = render(report, "process") + "\n"
    assert text.startswith(PROMISED)
    assert text[len(PROMISED) :] == (
        "\n"
        "Coordination:\n"
        "  VM:                   12 ms\n"
        "  Upload:             3.00 ms\n"
        "  Compile:               0 ms\n"
        "  Load:                 10 ms\n"
        "  Messages:           5.00 ms\n"
        "  Ratio without deployment: 60.00× (compute/messages)\n"
    )


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0.0, "⚠  Warning (<10×)"),
        (9.99, "⚠  Warning (<10×)"),
        (10.0, "✓  Acceptable (>10×), but could be better"),
        (99.99, "✓  Acceptable (>10×), but could be better"),
        (100.0, "✓  Excellent (>=100×)"),
        (float("inf"), "✓  Excellent (>=100×)"),
        (float("nan"), "–  Nothing was measured"),
    ],
)
def test_verdict_when_at_each_bound_then_the_right_words(ratio: float, said: str) -> None:
    """Below 10 a warning, from 100 excellence, nothing said of nothing."""
    assert verdict(ratio).startswith(said)


def test_report_when_a_ratio_does_not_exist_then_no_number_is_made_up() -> None:
    """Infinite is ∞ for people and null for programs; so is what was not measured."""
    busy = PerformanceReport("a", "rust", 5 * MS, 0, 0, 0, 0, 0, 1)
    assert "Granularity Ratio:       ∞× (compute/coordinate)" in render(busy, "qemu")
    assert as_dict(busy, "qemu")["granularity_ratio"] is None
    idle = PerformanceReport("a", "rust", 0, 0, 0, 0, 0, 0, 0)
    assert "Efficiency:             n/a (compute/total)" in render(idle, "qemu")
    assert as_dict(idle, "qemu")["efficiency"] is None


def test_report_when_as_dict_then_every_time_is_in_nanoseconds() -> None:
    """Programs get the integers that were measured."""
    report = PerformanceReport("a", "go", 30, 1, 1, 2, 1, 5, 7)
    assert json.loads(json.dumps(as_dict(report, "process"), allow_nan=False)) == {
        "actor": "a",
        "language": "go",
        "isolation": "process",
        "messages": 7,
        "compute_ns": 30,
        "coordinate_ns": 10,
        "total_ns": 40,
        "coordination": {
            "vm_ns": 1,
            "upload_ns": 1,
            "compile_ns": 2,
            "load_ns": 1,
            "messages_ns": 5,
        },
        "granularity_ratio": 3.0,
        "efficiency": 0.75,
        "ratio_without_deployment": 6.0,
    }
