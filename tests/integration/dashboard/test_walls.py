"""What an application, or a page of somebody else, can do to the dashboard: nothing.

Pages of applications answer below `/apps/` at the dashboard's own origin. What their scripts can do
is tried in them, by what runs with the same rights.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, ConsoleMessage, Error, Page
from support.actors import http_page
from support.other_site import serving

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "plexspaces-token"
"""Under which the page keeps a token."""

STOPS = "url => fetch(url, { method: 'POST', mode: 'no-cors' }).catch(() => null)"

FRAMES = """(url) => {
  const frame = document.createElement("iframe");
  frame.src = url;
  document.body.append(frame);
}"""

POSTS = """([url, payload]) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: url, enctype: "text/plain" });
  const field = document.createElement("textarea");
  Object.assign(field, { name: payload, value: "" });
  form.append(field);
  document.body.append(form);
  form.submit();
}"""


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> Page:
    """A page that complains of what it may not do."""
    return await context.new_page()


@pytest_asyncio.fixture(loop_scope="module")
async def evil(client: NodeClient, tmp_path: Path) -> str:
    """A component whose response is a page, also where it should be something else; its address."""
    wasm = tmp_path / "evil.wasm"
    wasm.write_bytes(http_page(b"<!doctype html><title>evil</title><body><script>ran = 1</script>"))
    await client.deploy("evil", wasm)
    return "/apps/evil/"


@pytest_asyncio.fixture(loop_scope="module")
async def other_site() -> AsyncIterator[str]:
    """A site of somebody else, at another port of this host."""
    async with serving() as port:
        yield f"http://127.0.0.1:{port}/"


async def refused(page: Page, script: str, argument: object = None) -> str:
    """Return how a script fails in a page, which it must."""
    with pytest.raises(Error) as failed:
        await page.evaluate(script, argument)
    return failed.value.message


class TestApplication:
    async def test_page_of_an_application_when_opened_in_the_same_tab_then_has_no_token(
        self, page: Page, evil: str
    ) -> None:
        """The tab keeps it for the node's origin, which a sandboxed page has not."""
        await page.goto("/")
        await page.evaluate(f"sessionStorage.setItem('{TOKEN}', 'pxs_secret')")
        await page.goto(evil)
        # It is a page, and its scripts run.
        assert (await page.title(), await page.evaluate("ran")) == ("evil", 1)
        assert await page.evaluate("origin") == "null"
        for store in ("sessionStorage.length", "localStorage.length", "document.cookie"):
            assert "sandboxed" in await refused(page, f"() => {store}")

    async def test_page_of_an_application_when_it_asks_the_node_then_hears_nothing(
        self, page: Page, client: NodeClient, evil: str
    ) -> None:
        """Neither by reading nor by sending without reading."""
        await page.goto(evil)
        for path in ("/v1/applications", "/", "/apps/evil/", "/openapi.json"):
            assert "Failed to fetch" in await refused(page, "path => fetch(path)", path)
        await page.evaluate(STOPS, "/v1/applications/evil/stop")
        assert (await client.inspect("evil")).state == "Running"

    async def test_page_of_an_application_when_it_opens_the_dashboard_then_has_no_hold_on_it(
        self, page: Page, context: BrowserContext, evil: str
    ) -> None:
        """A window that it opens is as confined as itself, and does not show the dashboard."""
        await page.goto(evil)
        async with context.expect_page() as opening:
            await page.evaluate("opened = open('/'), null")
        opened = await opening.value
        await opened.wait_for_load_state()
        assert not await opened.evaluate(
            "() => { try { return Boolean(sessionStorage) } catch { return false } }"
        )
        assert await opened.locator("header").count() == 0

    async def test_code_of_an_application_when_the_page_of_the_node_is_made_to_load_it_then_not_run(
        self, page: Page, evil: str
    ) -> None:
        """By a script, a style or a worker: its type is not looked at before."""
        await page.goto("/openapi.json")
        loads = """([tag, attribute, url]) => new Promise((done) => {
          const part = document.createElement(tag);
          part.onload = () => done("loaded");
          part.onerror = () => done("refused");
          Object.assign(part, { [attribute]: url, rel: "stylesheet" });
          document.body.append(part);
        })"""
        assert await page.evaluate(loads, ["script", "src", evil]) == "refused"
        assert await page.evaluate(loads, ["link", "href", evil]) == "refused"
        # That it would load one of its own.
        assert await page.evaluate(loads, ["script", "src", "/ui/main.js"]) == "loaded"
        register = "url => navigator.serviceWorker.register(url, { scope: url })"
        assert "403" in await refused(page, register, f"{evil}worker.js")

    @pytest.mark.usefixtures("echo")
    async def test_reply_when_it_is_a_page_then_shown_as_text(self, page: Page) -> None:
        """To a message that a form has sent, and as the text of an error."""
        await page.goto("/openapi.json")
        payload = "<!doctype html><script>ran = 1</script>"
        async with page.expect_navigation():
            await page.evaluate(POSTS, ["/apps/echo/e", payload])
        assert await page.evaluate("document.contentType") == "text/plain"
        assert await page.evaluate("typeof ran") == "undefined"
        assert payload in await page.inner_text("body")
        async with page.expect_navigation():
            await page.evaluate(POSTS, [f"/apps/{payload}/e", "x"])
        assert "json" in await page.evaluate("document.contentType")

    async def test_application_at_its_own_host_when_it_asks_then_is_somebody_else(
        self, page: Page, node: Node, client: NodeClient, evil: str
    ) -> None:
        """There its scripts are not sandboxed, and of another origin."""
        del evil
        port = node.http_address.rpartition(":")[2]
        for dashboard in (f"http://localhost:{port}", f"http://127.0.0.1:{port}"):
            await page.goto(f"{dashboard}/")
            await page.evaluate(f"sessionStorage.setItem('{TOKEN}', 'pxs_secret')")
            await page.goto(f"http://evil.localhost:{port}/")
            assert await page.evaluate(f"sessionStorage.getItem('{TOKEN}')") is None
            asking = f"fetch('{dashboard}/v1/applications')"
            assert "Failed to fetch" in await refused(page, asking)
            await page.evaluate(STOPS, f"{dashboard}/v1/applications/evil/stop")
        assert (await client.inspect("evil")).state == "Running"


class TestFrames:
    @pytest.mark.parametrize("path", ["/", "/api"])
    async def test_page_of_the_node_when_framed_then_not_shown(
        self, page: Page, node: Node, origin: str, evil: str, other_site: str, path: str
    ) -> None:
        """By an application, by another site, or by itself: nobody clicks there unknowingly."""
        port = node.http_address.rpartition(":")[2]
        for framing in (evil, f"http://evil.localhost:{port}/", other_site, "/openapi.json"):
            await page.goto(framing)
            async with page.expect_console_message(_is_refused_frame):
                await page.evaluate(FRAMES, f"{origin}{path}")


def _is_refused_frame(message: ConsoleMessage) -> bool:
    return message.type == "error" and "frame-ancestors 'none'" in message.text


class TestPolicy:
    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("document.body.innerHTML = '<img>'", "TrustedHTML"),
            ("document.write('<img>')", "TrustedHTML"),
            ("document.createElement('script').src = '/ui/main.js'", "TrustedScriptURL"),
            ("document.createElement('script').text = 'ran = 1'", "TrustedScript"),
            ("document.body.setAttribute('onclick', 'ran = 1')", "TrustedScript"),
            ("new Worker('/ui/main.js')", "TrustedScriptURL"),
            ("trustedTypes.createPolicy('mine', {})", "disallowed"),
        ],
    )
    async def test_page_when_made_to_run_text_then_it_does_not(
        self, page: Page, script: str, why: str
    ) -> None:
        """Text becomes neither markup nor code there, whoever has brought it."""
        await page.goto("/")
        assert why in await refused(page, f"() => {{ {script} }}")

    async def test_page_when_it_has_inline_code_then_it_is_not_run(self, page: Page) -> None:
        """As by markup that got into the page before it was sent."""
        await page.goto("/")
        run = await page.evaluate(
            """() => {
              const part = document.createElement("script");
              part.append("ran = 1");
              document.body.append(part);
              return typeof ran;
            }"""
        )
        assert run == "undefined"

    async def test_page_when_made_to_tell_somebody_else_then_it_does_not(
        self, page: Page, origin: str, other_site: str
    ) -> None:
        """By a request, a picture, a form or in the background: what it knows stays here."""
        await page.goto("/")
        broken = await page.evaluate(TELLS, other_site)
        assert sorted(broken) == ["connect-src", "connect-src", "form-action", "img-src"]
        assert page.url == f"{origin}/"


TELLS = """async (url) => {
  const broken = [];
  const all = new Promise((done) => {
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
      if (broken.push(effectiveDirective) === 4) done();
    });
  });
  await fetch(url).catch(() => null);
  new Image().src = url;
  navigator.sendBeacon(url, "x");
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: url });
  document.body.append(form);
  form.submit();
  await all;
  return broken;
}"""
