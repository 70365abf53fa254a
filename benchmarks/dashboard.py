"""How long the dashboard takes to show a thousand applications, and what that costs."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time

from playwright.async_api import Browser, CDPSession, Page, async_playwright

from benchmarks.serving import serving_process
from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.vm.host.procfs import cpu_ns

COUNT = 1000
COMPLETE_TARGET_MS = 2000.0
UPDATE_TARGET_MS = 3000.0
"""The node counts in moments of 2 s, and tells what changed once a second."""
ROUNDS = 7
SECONDS = 10
_AT_ONCE = 8
_SMALL = DeployOptions(memory_mib=64)
# What is to be seen is drawn two frames after it is there.
_WATCH = """
const soon = requestAnimationFrame;
const drawn = (done) => soon(() => soon(() => done(performance.now())));
globalThis.complete = new Promise((done) => {
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver((_, watching) => {
      if (document.querySelectorAll("table.applications tbody tr").length < COUNT) return;
      watching.disconnect();
      drawn(done);
    }).observe(document.body, { childList: true, subtree: true });
  });
});
globalThis.updated = (name) => new Promise((done) => {
  const cell = document.querySelector(`tr:has(a[href="#/app/${name}"]) td.rate`);
  new MutationObserver((_, watching) => {
    watching.disconnect();
    drawn((at) => done(performance.timeOrigin + at));
  }).observe(cell, { childList: true, characterData: true, subtree: true });
});
"""


@dataclass(frozen=True)
class DashboardReport:
    """What was measured with `COUNT` applications, all running, in a headless browser.

    Attributes:
        complete_ms: from opening the page until all are drawn, median; the browser has no files.
        again_ms: the same when it has them.
        page_ms: of that, how long the page's thread computed.
        update_ms: from a message's reply until the row of its application shows it, median.
        node_percent: of one CPU, what the node uses more while the page is open and every
            application gets a message a second.
        page_percent: of one CPU, what the page's thread uses then.
    """

    complete_ms: float
    again_ms: float
    page_ms: float
    update_ms: float
    node_percent: float
    page_percent: float


def missing() -> str:
    """Return why nothing can be measured here, "" if it can."""
    return "" if shutil.which("chromium") else "chromium is not installed: make clients"


async def measure(wasm: Path, data: Path, *, note: Callable[[str], None]) -> DashboardReport:
    """Deploy `COUNT` applications and look at them in a browser."""
    argv = [sys.executable, "-m", "benchmarks.host", str(data), str(COUNT)]
    with serving_process(argv) as (process, addresses):
        grpc_address, http_address = addresses.split()
        async with (
            NodeClient(grpc_address) as client,
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=shutil.which("chromium")) as browser,
        ):
            note(f"dashboard: {COUNT} deploys")
            for first in range(0, COUNT, _AT_ONCE):
                names = (f"app-{number}" for number in range(first, first + _AT_ONCE))
                await asyncio.gather(*(client.deploy(name, wasm, options=_SMALL) for name in names))
            url = f"http://{http_address}/"
            cold = [await _opened(browser, url) for _ in range(ROUNDS)]
            page = await _page(browser)
            again = []
            for _ in range(ROUNDS + 1):
                await page.goto(url)
                again.append(await page.evaluate("complete"))
            note("dashboard: updates")
            updates = [await _update_ms(client, page, f"app-{n}") for n in range(0, COUNT, 100)]
            with_page = await _under_load(client, process.pid, page)
            await page.close()
            without_page = await _under_load(client, process.pid, None)
    return DashboardReport(
        complete_ms=statistics.median(ms for ms, _ in cold),
        again_ms=statistics.median(again[1:]),
        page_ms=statistics.median(ms for _, ms in cold),
        update_ms=statistics.median(updates),
        node_percent=with_page[0] - without_page[0],
        page_percent=with_page[1],
    )


def table(report: DashboardReport) -> str:
    """Return the report as a list."""
    return "\n".join(
        (
            f"the dashboard with {COUNT} applications",
            f"  all drawn after opening it        {report.complete_ms:8.0f} ms"
            f"{_over(report.complete_ms, COMPLETE_TARGET_MS)}",
            f"  the same with the files at hand   {report.again_ms:8.0f} ms",
            f"  of which the page computes        {report.page_ms:8.0f} ms",
            f"  a message is shown after          {report.update_ms:8.0f} ms"
            f"{_over(report.update_ms, UPDATE_TARGET_MS)}",
            f"  {COUNT} messages a second: node     {report.node_percent:8.1f} % of a CPU more",
            f"  the page                          {report.page_percent:8.1f} % of a CPU",
        )
    )


def _over(value: float, target: float) -> str:
    return f" (!) target ≤ {target:g}" if value > target else ""


async def _page(browser: Browser) -> Page:
    """Return a page of somebody who has never been here."""
    page = await browser.new_page()
    await page.add_init_script(_WATCH.replace("COUNT", str(COUNT)))
    return page


async def _opened(browser: Browser, url: str) -> tuple[float, float]:
    """Return after how many ms all is drawn, and how many of them the page computed."""
    page = await _page(browser)
    devtools = await _devtools(page)
    await page.goto(url)
    complete_ms = await page.evaluate("complete")
    worked_s = await _worked_s(devtools)
    await page.close()
    return complete_ms, worked_s * 1e3


async def _devtools(page: Page) -> CDPSession:
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    return devtools


async def _worked_s(devtools: CDPSession) -> float:
    """Return how long the page's thread has computed since it was opened."""
    told = (await devtools.send("Performance.getMetrics"))["metrics"]
    return float({each["name"]: each["value"] for each in told}["TaskDuration"])


async def _update_ms(client: NodeClient, page: Page, name: str) -> float:
    """Return after how many ms a message to a quiet application is shown."""
    seen = asyncio.ensure_future(page.evaluate("name => updated(name)", name))
    # The page is watching once it has answered another question.
    await page.evaluate("1")
    await client.invoke(name, b"", type="e")
    replied_ms = time() * 1e3
    return float(await seen) - replied_ms


async def _under_load(client: NodeClient, pid: int, page: Page | None) -> tuple[float, float]:
    """Return what node and page use, in percent of a CPU, while all applications get messages."""
    devtools = await _devtools(page) if page is not None else None
    async with asyncio.timeout(SECONDS * 10):
        await _round(client)
        begin, node_ns = perf_counter(), cpu_ns(pid)
        page_s = await _worked_s(devtools) if devtools else 0.0
        for _ in range(SECONDS):
            await _round(client)
        lasted_s = perf_counter() - begin
        page_s = (await _worked_s(devtools) if devtools else 0.0) - page_s
    return (cpu_ns(pid) - node_ns) / lasted_s / 1e7, page_s / lasted_s * 100


async def _round(client: NodeClient) -> None:
    """Send one message to each application, and take at least a second for that."""
    waiting = asyncio.create_task(asyncio.sleep(1))
    for number in range(COUNT):
        await client.invoke(f"app-{number}", b"", type="e")
    await waiting
