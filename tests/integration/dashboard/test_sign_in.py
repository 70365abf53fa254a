"""A node that has tokens: the page asks for one, keeps it in its tab, and shows what it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from support.browser import Watched
from support.nodes import builder, with_tls

from plexspaces_node import NodeClient
from plexspaces_node.certificates import make_authority, make_node_certificate
from plexspaces_node.node.access.identity import ALL, Scope
from plexspaces_node.node.node import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def owner(node: Node, data_dir: Path, probe_wasm: Path) -> AsyncIterator[NodeClient]:
    """The owner of a node that has a token, and applications of two tenants."""
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        for name in ("shop/cart", "rival/cart"):
            await owner.deploy(name, probe_wasm)
        await owner.create_token("root", scopes=[Scope.ADMIN], tenant=ALL)
        yield owner


async def sign_in(page: Page, secret: str) -> None:
    """Open the page and give it this token."""
    await page.goto("/")
    await page.get_by_label("Token").fill(secret)
    await page.keyboard.press("Enter")


async def secret_of(owner: NodeClient, *scopes: Scope, tenant: str = "shop") -> str:
    """A new token's."""
    name = "-".join(scopes)
    return (await owner.create_token(name, scopes=scopes, tenant=tenant)).secret


class TestSignIn:
    async def test_token_when_of_a_tenant_then_shows_that_tenant_alone(
        self, page: Page, owner: NodeClient
    ) -> None:
        """Nothing of another, whatever address is opened, nor of the node itself."""
        await sign_in(page, await secret_of(owner, Scope.READ))
        await expect(page.get_by_role("link", name="shop/cart")).to_be_visible()
        for text in ("rival", "Node memory", "Given to VMs"):
            await expect(page.get_by_text(text)).to_have_count(0)
        await expect(page.get_by_role("button", name="Deploy…")).to_have_count(0)
        await page.goto("/#/app/rival%2Fcart")
        await expect(page.locator("main")).to_contain_text("rival")
        await expect(page.get_by_text("Running")).to_have_count(0)
        await page.goto("/#/app/shop%2Fcart")
        await expect(page.locator(".title")).to_contain_text("Running")
        await expect(page.get_by_role("button", name="Stop…")).to_have_count(0)

    async def test_token_when_it_is_none_then_says_so_and_asks_again(
        self, page: Page, owner: NodeClient
    ) -> None:
        """One that is wrong, or no text of a token at all."""
        del owner
        for wrong in ("pxs_wrong", "two words", "grüße"):
            await sign_in(page, wrong)
            await expect(page.get_by_role("alert").filter(has_text="token")).to_be_visible()
            await expect(page.get_by_label("Token")).to_be_focused()
        assert await page.evaluate("sessionStorage.length") == 0

    async def test_token_when_given_then_stays_in_its_tab(
        self, page: Page, context: BrowserContext, owner: NodeClient
    ) -> None:
        """Through a reload, not in another tab, and not after signing out; in no address."""
        secret = await secret_of(owner, *Scope)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        await sign_in(page, secret)
        await expect(page.get_by_role("link", name="shop/cart")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("link", name="shop/cart")).to_be_visible()
        assert secret not in await page.content()
        other = await context.new_page()
        await other.goto("/")
        await expect(other.get_by_label("Token")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        await expect(page.get_by_role("link", name="shop/cart")).to_have_count(0)
        await expect(page.locator("main").get_by_role("alert")).to_have_count(0)
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert not any(secret in url for url in asked)

    async def test_token_when_revoked_then_the_page_asks_for_another(
        self, page: Page, owner: NodeClient
    ) -> None:
        """At once: its stream ends."""
        await sign_in(page, await secret_of(owner, Scope.READ))
        await expect(page.get_by_role("link", name="shop/cart")).to_be_visible()
        await owner.revoke_token("read", tenant="shop")
        await expect(page.get_by_label("Token")).to_be_visible()
        await expect(page.get_by_role("link", name="shop/cart")).to_have_count(0)

    async def test_token_when_it_may_send_messages_alone_then_that_is_offered(
        self, page: Page, owner: NodeClient
    ) -> None:
        """To an application that its address names; it lists none."""
        await sign_in(page, await secret_of(owner, Scope.INVOKE))
        await expect(page.locator("main")).to_contain_text("scope read")
        await page.goto("/#/app/shop%2Fcart")
        await page.get_by_role("button", name="Send a message…").click()
        await page.get_by_label("Type").fill("e")
        await page.get_by_label("Payload", exact=True).fill("hello")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.locator(".reply pre").first).to_have_text("hello")


async def test_node_when_it_speaks_tls_then_the_page_works_as_without(
    browser: Browser, tmp_path: Path, probe_wasm: Path
) -> None:
    """Its origin is another one, which its requests name, and its streams come encrypted."""
    pair = make_node_certificate(make_authority("CA of the test"), ["localhost", "127.0.0.1"])
    async with with_tls(builder(tmp_path / "data"), tmp_path, pair).build() as node:
        async with NodeClient(f"unix:{tmp_path}/data/node.sock") as owner:
            await owner.deploy("shop/cart", probe_wasm)
            secret = await secret_of(owner, *Scope)
        origin = f"https://localhost:{node.http_address.rpartition(':')[2]}"
        context = await browser.new_context(base_url=origin, ignore_https_errors=True)
        watched = Watched(context, origin)
        page = await context.new_page()
        await sign_in(page, secret)
        await page.get_by_role("link", name="shop/cart").click()
        await page.get_by_role("button", name="Send a message…").click()
        await page.get_by_label("Type", exact=True).fill("e")
        await page.get_by_label("Payload", exact=True).fill("hello")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.locator(".reply pre").first).to_have_text("hello")
        watched.assert_well()
        await context.close()
