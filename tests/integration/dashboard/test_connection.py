"""What the page does when the node is gone, and when it is there again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from support.browser import TIMEOUT_MS, Watched
from support.nodes import builder

from plexspaces_node import NodeClient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    yield await context.new_page()
    await context.close()


async def test_node_when_it_starts_again_then_the_page_goes_on(
    page: Page, data_dir: Path, probe_wasm: Path
) -> None:
    """Until then it says that it is disconnected, and that what it shows is from before."""
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    state = page.locator("#connection")
    async with build.build() as node, NodeClient(node.address) as client:
        origin = f"http://{node.http_address}"
        build = build.with_setting("http.address", str(node.http_address))
        watched = Watched(page.context, origin)
        await client.deploy("echo", probe_wasm)
        await page.goto(f"{origin}/")
        await expect(state).to_have_text("live")
        await expect(page.get_by_role("link", name="echo", exact=True)).to_be_visible()
    await expect(state).to_have_text("disconnected")
    await expect(page.get_by_role("alert")).to_contain_text("what is shown is from before")
    await expect(page.get_by_role("link", name="echo", exact=True)).to_be_visible()
    async with build.build() as node, NodeClient(node.address) as client:
        await expect(state).to_have_text("live")
        await expect(page.get_by_role("alert")).to_be_empty()
        await client.deploy("other", probe_wasm)
        await expect(page.get_by_role("link", name="other", exact=True)).to_be_visible()
        await client.undeploy("echo")
        await expect(page.get_by_role("link", name="echo", exact=True)).to_have_count(0)
    watched.assert_well()


async def test_page_when_opened_while_the_node_is_gone_then_shown_once_it_answers(
    page: Page, data_dir: Path, probe_wasm: Path
) -> None:
    """Its files are loaded when it is opened first. Until then the former page stays."""
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    link = page.get_by_role("link", name="echo", exact=True)
    async with build.build() as node, NodeClient(node.address) as client:
        origin = f"http://{node.http_address}"
        build = build.with_setting("http.address", str(node.http_address))
        watched = Watched(page.context, origin)
        await client.deploy("echo", probe_wasm)
        await page.goto(f"{origin}/")
        await expect(link).to_be_visible()
    await expect(page.locator("#connection")).to_have_text("disconnected")
    await link.click()
    await expect(page).to_have_url(f"{origin}/#/app/echo")
    await expect(link).to_be_visible()
    async with build.build():
        await expect(page.get_by_role("heading", name="echo")).to_be_visible()
        await expect(page.get_by_role("button", name="Send a message…")).to_be_visible()
    # That nobody was there to give the files is the browser's to say, and all that is said.
    assert all("ERR_CONNECTION_REFUSED" in said for said in watched.errors), watched.errors


async def test_node_when_not_there_at_first_then_the_page_waits_for_it(
    page: Page, data_dir: Path
) -> None:
    """As one that is opened from a cache, or reloaded while the node is restarted."""
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.build() as node:
        origin = f"http://{node.http_address}"
        build = build.with_setting("http.address", str(node.http_address))
        # The first question goes unanswered.
        await page.route("**/v1/whoami", lambda route: route.abort())
        await page.goto(f"{origin}/")
        await expect(page.get_by_role("alert")).to_contain_text("does not answer")
        await page.unroute("**/v1/whoami")
        await page.get_by_role("button", name="Try now").click()
        await expect(page.locator("#connection")).to_have_text("live")
