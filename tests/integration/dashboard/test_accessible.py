"""Whether everybody can use the page: axe-core looks at each of its parts, light and dark."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect
from support.browser import TIMEOUT_MS, Watched

from plexspaces_node import NodeClient
from plexspaces_node.errors import ActorFailed
from plexspaces_node.node.access.identity import ALL, Scope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("echo")]

SERIOUS = ("serious", "critical")
"""How axe-core calls what keeps somebody from using a page."""


@pytest_asyncio.fixture(loop_scope="module", params=["light", "dark"])
async def page(
    request: pytest.FixtureRequest, browser: Browser, origin: str
) -> AsyncIterator[Page]:
    """A page in the colours that somebody prefers."""
    context = await browser.new_context(base_url=origin, color_scheme=request.param)
    context.set_default_timeout(TIMEOUT_MS)
    watched = Watched(context, origin)
    yield await context.new_page()
    watched.assert_well()
    await context.close()


async def findings(page: Page) -> list[dict[str, Any]]:
    """What keeps somebody from using what the page shows."""
    results = await Axe().run(page)
    assert len(results.response["passes"]) > 5
    return [
        {
            "rule": each["id"],
            "at": [(node["html"][:200], node["failureSummary"][:300]) for node in each["nodes"]],
        }
        for each in results.response["violations"]
        if each["impact"] in SERIOUS
    ]


async def test_overview_when_looked_at_then_has_no_serious_findings(
    page: Page, client: NodeClient
) -> None:
    """With an application that works, and the dialog of a deploy."""
    for _ in range(3):
        await client.invoke("echo", b"x", type="e")
    await page.goto("/")
    await expect(page.locator("td.share")).to_contain_text("%")
    assert await findings(page) == []
    await page.get_by_role("button", name="Deploy…").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await findings(page) == []


async def test_application_when_looked_at_then_has_no_serious_findings(
    page: Page, client: NodeClient
) -> None:
    """With messages, errors, a trace and log lines; and the dialogs of its buttons."""
    for _ in range(3):
        await client.invoke("echo", b"a line", type="o")
        with pytest.raises(ActorFailed):
            await client.invoke("echo", b"x", type="x")
    await page.goto("/#/app/echo")
    await expect(page.get_by_role("region", name="Last errors")).to_contain_text("nope")
    await expect(page.get_by_role("log")).to_contain_text("a line")
    await page.get_by_role("region", name="Traces").locator("summary").first.click()
    assert await findings(page) == []
    for button in ("Send a message…", "Stop…", "Replace…", "Undeploy…"):
        await page.get_by_role("button", name=button).click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await findings(page) == []
        await page.keyboard.press("Escape")


async def test_machines_when_looked_at_then_have_no_serious_findings(page: Page) -> None:
    """The table of VMs."""
    await page.goto("/#/machines")
    await expect(page.get_by_role("row").filter(has_text="echo")).to_be_visible()
    assert await findings(page) == []


async def test_sign_in_when_looked_at_then_has_no_serious_findings(
    page: Page, data_dir: Path
) -> None:
    """Also after a token that was wrong."""
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        await owner.create_token("root", scopes=[Scope.ADMIN], tenant=ALL)
    await page.goto("/")
    await expect(page.get_by_label("Token")).to_be_visible()
    assert await findings(page) == []
    await page.get_by_label("Token").fill("pxs_wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(has_text="token")).to_be_visible()
    assert await findings(page) == []
