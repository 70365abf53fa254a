"""A node with a thousand applications, in the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from support.nodes import builder
from support.patience import patient
from support.records import record_of

from plexspaces_node import NodeClient
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.node import Node
from plexspaces_node.node.registry.registry import Desired, Registry

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = 1000
MOST_S = 2.0
"""Of one CPU, for the page to be there: its code, its layout and its picture."""


@pytest_asyncio.fixture(loop_scope="module")
async def node(data_dir: Path) -> AsyncIterator[Node]:
    """A node that finds a thousand applications at its start, all of them stopped."""
    with DataDirectory.open(data_dir, "node-test") as data:
        data.keep()
        async with Registry.open(data.registry) as registry:
            for number in range(COUNT):
                name = f"app-{number:04}"
                record = record_of(name, id=name, version=f"1.{number}", desired=Desired.STOPPED)
                await registry.insert_application(record)
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.with_setting("limits.applications", COUNT + 10).build() as node:
        yield node


async def test_thousand_applications_when_shown_then_all_are_there_and_live(
    page: Page, client: NodeClient, probe_wasm: Path
) -> None:
    """Filtered and sorted too; one more comes, works and goes while they are shown.

    How long the page works is measured in time of its CPU, which is the same on a busy machine.
    """
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    await page.goto("/")
    rows = page.locator("table.applications tbody tr")
    await expect(rows).to_have_count(COUNT)
    told = (await devtools.send("Performance.getMetrics"))["metrics"]
    worked_s = {each["name"]: each["value"] for each in told}["TaskDuration"]
    assert worked_s < patient(MOST_S)
    await page.locator("input[type=search]").fill("app-0123")
    await expect(page.locator("table.applications tbody tr:visible")).to_have_count(1)
    await page.locator("input[type=search]").fill("")
    await page.locator("th.version button").click()
    await expect(rows.first).to_contain_text("app-0000")
    await client.deploy("echo", probe_wasm)
    # By its role Playwright would look at each of the thousand.
    row = page.locator('tr:has(a[href="#/app/echo"])')
    await expect(row).to_contain_text("Running")
    await client.invoke("echo", b"x", type="e")
    await expect(row.locator("td.rate")).to_contain_text("/s")
    await client.undeploy("echo")
    await expect(rows).to_have_count(COUNT)
