"""Measure the node against floors taken in the same run, and print ratios.

The machines this runs on are shared and noisy: rounds of product and floor alternate, and what is
quoted is the median of the rounds' ratios, with the absolute medians beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import (
    applications,
    cluster,
    cluster_state,
    dashboard,
    hop,
    http,
    languages,
    machines,
    metrics,
    node,
    placement,
    quotas,
    telemetry,
    tokens,
)
from benchmarks.applications import ApplicationsReport
from benchmarks.cluster import ClusterReport
from benchmarks.dashboard import DashboardReport
from benchmarks.languages import LanguageRow
from benchmarks.machines import MachineReport
from benchmarks.node import Row
from benchmarks.placement import PlacementRow
from benchmarks.quotas import QuotasReport
from benchmarks.serving import serving
from plexspaces_node import NodeClient

_PARTS = (
    *("node", "http", "languages", "applications", "machines", "quotas", "tokens", "dashboard"),
    *("metrics", "telemetry", "placement", "hop", "cluster", "cluster-state"),
)


async def main() -> None:
    """Run everything and print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=_PARTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="px-") as scratch:
        report = await _measure(Path(scratch), arguments.only)
    if arguments.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(_text(report))


@dataclass(frozen=True)
class Report:
    """What a run measured; a part that was not asked for, or has no means here, is empty."""

    node: list[Row]
    languages: list[LanguageRow]
    applications: ApplicationsReport | None
    machines: MachineReport | None
    quotas: QuotasReport | None
    dashboard: DashboardReport | None
    placement: list[PlacementRow]
    cluster: ClusterReport | None


def _text(report: Report) -> str:
    parts = []
    if report.node:
        lines = [f"{'':44} {'product':>12} {'floor':>12} {'ratio':>8}"]
        lines += [
            f"{row.name:44} {row.product:9.2f} {row.unit} {row.floor:9.2f} {row.unit} "
            f"{row.ratio:7.2f}×"
            for row in report.node
        ]
        parts.append("\n".join(lines))
    if report.languages:
        parts.append(languages.table(report.languages))
    if report.applications is not None:
        parts.append(applications.table(report.applications))
    if report.machines is not None:
        parts.append(machines.table(report.machines))
    if report.quotas is not None:
        parts.append(quotas.table(report.quotas))
    if report.dashboard is not None:
        parts.append(dashboard.table(report.dashboard))
    if report.placement:
        parts.append(placement.table(report.placement))
    if report.cluster is not None:
        parts.append(cluster.table(report.cluster))
    return "\n\n".join(parts)


async def _measure(scratch: Path, only: str | None) -> Report:
    of_placement = placement.measure(_note) if only in (None, "placement") else []
    if only == "placement":
        return Report([], [], None, None, None, None, of_placement, None)
    wasm = node.probe(scratch)
    rows: list[Row] = []
    by_language: list[LanguageRow] = []
    of_many = by_machine = of_quotas = of_dashboard = None
    if only in (None, "node", "languages"):
        host = [sys.executable, "-m", "benchmarks.host", str(scratch / "data")]
        with serving(host) as addresses:
            async with NodeClient(addresses.split()[0], http=False) as client:
                if only != "languages":
                    rows = await node.measure(client, scratch / "data", wasm)
                if only != "node":
                    by_language = await languages.measure(
                        client, scratch / "data", scratch, note=_note
                    )
    if only in (None, "http"):
        if why := http.missing():
            _note(f"HTTP is not measured: {why}")
        else:
            rows += await http.measure(wasm, scratch, note=_note)
    if only in (None, "tokens"):
        if why := http.missing():
            _note(f"tokens are not measured: {why}")
        else:
            rows += await tokens.measure(wasm, scratch, note=_note)
    if only in (None, "metrics"):
        rows += await metrics.measure(note=_note)
    if only in (None, "telemetry"):
        if why := http.missing():
            _note(f"telemetry is not measured: {why}")
        else:
            rows += await telemetry.measure(wasm, scratch)
    if only in (None, "hop"):
        rows += await hop.measure(wasm, scratch)
    if only in (None, "cluster-state"):
        rows += await cluster_state.measure(scratch)
    if only in (None, "applications"):
        of_many = await applications.measure(wasm, scratch / "many", note=_note)
    if only in (None, "machines"):
        by_machine = await machines.measure(wasm, scratch, note=_note)
    if only in (None, "quotas"):
        of_quotas = await quotas.measure(wasm, scratch)
    if only in (None, "dashboard"):
        if why := dashboard.missing():
            _note(f"the dashboard is not measured: {why}")
        else:
            of_dashboard = await dashboard.measure(wasm, scratch / "shown", note=_note)
    of_cluster = await _clusters(wasm, scratch) if only in (None, "cluster") else None
    return Report(
        *(rows, by_language, of_many, by_machine, of_quotas, of_dashboard, of_placement, of_cluster)
    )


async def _clusters(wasm: Path, scratch: Path) -> ClusterReport | None:
    if why := cluster.missing():
        _note(f"a cluster is not measured: {why}")
        return None
    return await cluster.measure(wasm, scratch, note=_note)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
