"""The page of all applications: that it loads, lives, and serves whoever uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Response, expect
from support.browser import Watched

from plexspaces_node import NodeClient

pytestmark = pytest.mark.asyncio(loop_scope="module")


def row(page: Page, name: str) -> Locator:
    """The row of an application."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


class TestLoading:
    @pytest.mark.usefixtures("echo")
    async def test_page_when_opened_then_shows_what_runs(self, page: Page, origin: str) -> None:
        """Each application with its state and level; every file is the node's own."""
        files: list[tuple[str, int]] = []
        page.on("response", lambda response: files.append((response.url, response.status)))
        await page.goto("/")
        await expect(page).to_have_title("Applications · PlexSpaces")
        await expect(row(page, "echo").locator("td.state")).to_contain_text("Running")
        await expect(row(page, "echo").locator("td.isolation")).to_have_text("process")
        assert len(files) > 3
        for url, status in files:
            assert (url.startswith(f"{origin}/"), status) == (True, 200)

    async def test_node_when_empty_then_says_how_to_begin(self, page: Page) -> None:
        """With the commands that do it."""
        await page.goto("/")
        await expect(page.get_by_text("No applications yet.")).to_be_visible()
        await expect(page.get_by_text("plexspaces deploy .")).to_be_visible()

    @pytest.mark.usefixtures("echo")
    async def test_page_when_opened_again_then_files_are_not_sent_again(
        self, page: Page, context: BrowserContext
    ) -> None:
        """A browser asks whether they have changed."""
        await page.goto("/")
        await expect(row(page, "echo")).to_be_visible()
        seen: dict[str, Response] = {}
        again = await context.new_page()
        again.on("response", lambda response: seen.update({response.url: response}))
        await again.goto("/")
        await expect(row(again, "echo")).to_be_visible()
        files = [response for url, response in seen.items() if "/ui/" in url]
        assert files
        sizes = [await response.request.sizes() for response in files]
        assert {size["responseBodySize"] for size in sizes} == {0}


class TestLiveness:
    @pytest.mark.usefixtures("echo")
    async def test_messages_when_sent_then_are_shown(self, page: Page, client: NodeClient) -> None:
        """Their rate, their times, and how much of these was coordination."""
        await page.goto("/")
        await expect(row(page, "echo").locator("td.rate")).to_have_text("–")
        for _ in range(20):
            await client.invoke("echo", b"x", type="e")
        await expect(row(page, "echo").locator("td.rate")).to_contain_text("/s")
        await expect(row(page, "echo").locator("td.share")).to_contain_text("%")
        await expect(row(page, "echo").locator("td.p50")).to_contain_text("s")

    async def test_applications_when_they_come_and_go_then_so_do_their_rows(
        self, page: Page, client: NodeClient, probe_wasm: Path
    ) -> None:
        """Without the page being loaded again."""
        await page.goto("/")
        await expect(page.get_by_text("No applications yet.")).to_be_visible()
        await client.deploy("one", probe_wasm)
        await expect(row(page, "one").locator("td.state")).to_contain_text("Running")
        await client.stop("one")
        await expect(row(page, "one").locator("td.state")).to_contain_text("Stopped")
        await client.undeploy("one")
        await expect(row(page, "one")).to_have_count(0)

    @pytest.mark.usefixtures("echo")
    async def test_tabs_when_there_are_many_then_the_one_in_front_works(
        self, context: BrowserContext, watched: Watched, client: NodeClient
    ) -> None:
        """A browser has six connections to a node: a page that nobody sees holds none."""
        # Here all are in front, unless they are told otherwise.
        await context.add_init_script(
            """let isHidden = false;
            Object.defineProperty(document, "hidden", { get: () => isHidden });
            globalThis.hide = (value) => {
              isHidden = value;
              document.dispatchEvent(new Event("visibilitychange"));
            };"""
        )
        pages = []
        for _ in range(8):
            page = await context.new_page()
            await page.goto("/#/app/echo")
            await expect(page.get_by_role("heading", name="echo", exact=True)).to_be_visible()
            await expect(page.locator(".title")).to_contain_text("Running")
            await page.evaluate("hide(true)")
            pages.append(page)
        await pages[0].evaluate("hide(false)")
        await client.stop("echo")
        await expect(pages[0].locator(".title")).to_contain_text("Stopped")
        watched.assert_well()


class TestKeyboard:
    @pytest.mark.usefixtures("echo")
    async def test_keyboard_when_used_alone_then_reaches_everything(self, page: Page) -> None:
        """Skip what is on every page, sort, filter, open an application, and come back."""
        await page.goto("/")
        await expect(row(page, "echo")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await _tab_to(page, page.get_by_role("searchbox"))
        await page.keyboard.type("nothing of the kind")
        await expect(row(page, "echo")).to_be_hidden()
        for _ in "nothing of the kind":
            await page.keyboard.press("Backspace")
        await expect(row(page, "echo")).to_be_visible()
        await _tab_to(page, page.get_by_role("button", name="Deploy…"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(page.get_by_role("button", name="Deploy…")).to_be_focused()
        await _tab_to(page, page.get_by_role("button", name="State"))
        await page.keyboard.press("Enter")
        header = page.get_by_role("columnheader", name="State")
        await expect(header).to_have_attribute("aria-sort", "ascending")
        await _tab_to(page, page.get_by_role("link", name="echo", exact=True))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="echo", exact=True)).to_be_focused()
        await page.go_back()
        await expect(page).to_have_title("Applications · PlexSpaces")

    @pytest.mark.usefixtures("echo")
    async def test_focus_when_it_is_somewhere_then_can_be_seen(self, page: Page) -> None:
        """Whatever has it is drawn otherwise than without."""
        await page.goto("/")
        await expect(row(page, "echo")).to_be_visible()
        seen = 0
        while seen < 40:
            await page.keyboard.press("Tab")
            outlined = await page.evaluate(
                """() => {
                  const one = document.activeElement;
                  if (one === document.body) return null;
                  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(one);
                  const is = outlineStyle !== "none" && outlineWidth !== "0px";
                  return is || boxShadow !== "none" ? true : one.outerHTML;
                }"""
            )
            if outlined is None:
                break
            assert outlined is True
            seen += 1
        assert seen > 10


async def _tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


class TestPhone:
    @pytest.mark.usefixtures("echo")
    async def test_page_when_as_narrow_as_a_phone_then_nothing_is_cut_off(
        self, page: Page, client: NodeClient
    ) -> None:
        """No page is wider than the screen, and what is pressed is large enough for a finger."""
        await client.invoke("echo", b"x", type="e")
        await page.set_viewport_size({"width": 360, "height": 740})
        for path, there in (
            ("/", row(page, "echo")),
            ("/#/app/echo", page.get_by_role("button", name="Send a message…")),
            ("/#/machines", page.get_by_role("heading", name="Machines")),
        ):
            await page.goto(path)
            await expect(there).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360
            small = await page.get_by_role("button").evaluate_all(
                """buttons => buttons.filter((one) => one.checkVisibility())
                  .map((one) => [one.innerText, one.getBoundingClientRect()])
                  .filter(([, { width, height }]) => Math.min(width, height) < 24)
                  .map(([text]) => text)"""
            )
            assert small == []
