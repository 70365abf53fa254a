"""What applications say, in the page: it is text there, whatever it looks like."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from plexspaces_node import NodeClient
from plexspaces_node.errors import ActorFailed
from plexspaces_node.model import MIB

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("echo")]

MARKUP = (
    """<script>ran = 1</script><img src="x" onerror="ran = 1"></div></main><h1>Signed out</h1>"""
)
ANSI = "\x1b[2J\x1b[31mred\x1b[0m\x1b]0;another title\x07\x1b]8;;https://evil.example\x1b\\here\x07"
TRICKS = "\u202egnissim\u202c \u200b\0 \x08\x08\x08 javascript:ran=1 {{ran=1}} ${ran=1}"


async def unharmed(page: Page) -> None:
    """Nothing has been run, added or taken away."""
    assert await page.evaluate("typeof ran") == "undefined"
    assert await page.title() == "echo · PlexSpaces"
    await expect(page.get_by_role("heading", name="Signed out")).to_have_count(0)
    await expect(page.locator("main img")).to_have_count(0)
    await expect(page.get_by_role("heading", name="echo", exact=True)).to_be_visible()


class TestLog:
    async def test_line_when_it_has_markup_then_it_is_text(
        self, page: Page, client: NodeClient
    ) -> None:
        """Also before the page is opened."""
        await client.invoke("echo", MARKUP.encode(), type="o")
        await page.goto("/#/app/echo")
        log = page.get_by_role("log")
        await expect(log.get_by_text(MARKUP)).to_have_count(1)
        await client.invoke("echo", MARKUP.encode(), type="o")
        await expect(log.get_by_text(MARKUP)).to_have_count(2)
        await unharmed(page)

    async def test_line_when_it_is_for_a_terminal_then_only_its_text_is_shown(
        self, page: Page, client: NodeClient
    ) -> None:
        """Colours are left out; what hides or turns text around is made visible."""
        await page.goto("/#/app/echo")
        await client.invoke("echo", ANSI.encode(), type="o")
        log = page.get_by_role("log")
        await expect(log.get_by_text("redhere")).to_be_visible()
        await client.invoke("echo", TRICKS.encode(), type="o")
        await expect(log.get_by_text("javascript:ran=1")).to_be_visible()
        text = await log.inner_text()
        assert not set("\x1b\x07\u202e\u202c\u200b\0\x08") & set(text)
        await unharmed(page)

    async def test_line_when_it_is_a_megabyte_long_then_the_page_goes_on(
        self, page: Page, client: NodeClient
    ) -> None:
        """It is cut, and what follows is shown."""
        await page.goto("/#/app/echo")
        await client.invoke("echo", b"<b>" * (MIB // 3), type="o")
        await client.invoke("echo", b"the next line", type="o")
        log = page.get_by_role("log")
        await expect(log.get_by_text("the next line")).to_be_visible()
        width = "document.documentElement.scrollWidth <= innerWidth"
        assert await page.evaluate(width)
        await page.get_by_role("searchbox", name="Filter the log").fill("next")
        await expect(log.get_by_text("the next line")).to_be_visible()
        await expect(log.locator(":scope > :not([hidden])")).to_have_count(1)
        await unharmed(page)

    async def test_lines_when_they_come_by_the_thousand_then_the_last_are_shown(
        self, page: Page, client: NodeClient
    ) -> None:
        """The page keeps a part of them."""
        await page.goto("/#/app/echo")
        await expect(page.get_by_role("log")).to_be_visible()
        for number in range(5):
            lines = "\n".join(f"{number} {line}" for line in range(1000))
            await client.invoke("echo", lines.encode(), type="o")
        await client.invoke("echo", b"the last one", type="o")
        await expect(page.get_by_role("log").get_by_text("the last one")).to_be_visible()
        assert await page.get_by_role("log").locator(":scope > *").count() <= 2000


class TestNames:
    async def test_message_type_and_error_when_they_have_markup_then_they_are_text(
        self, page: Page, client: NodeClient
    ) -> None:
        """In the tables of types and of errors, and in the reply of a form."""
        with pytest.raises(ActorFailed):
            await client.invoke("echo", MARKUP.encode(), type=f"x{MARKUP}")
        await page.goto("/#/app/echo")
        for name in ("Message types", "Last errors"):
            region = page.get_by_role("region", name=name, exact=True)
            await expect(region).to_contain_text(MARKUP)
        await unharmed(page)

    @pytest.mark.parametrize("name", [MARKUP, "..%2f..%2fv1", "%00", "a/b/c"])
    async def test_address_when_it_names_no_application_then_says_so(
        self, page: Page, name: str
    ) -> None:
        """Whatever stands in it, as in a link that somebody has sent."""
        await page.goto("/#/app/" + quote(name, safe=""))
        await expect(page.locator("main")).to_contain_text("no application")
        assert await page.evaluate("typeof ran") == "undefined"
        await expect(page.locator("main img")).to_have_count(0)
