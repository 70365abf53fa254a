"""The dashboard in a real browser, on a real node.

A browser is started once for each module, whose tests share its event loop. Each test has a node
and a context of its own, as an incognito window is. Whatever a test looks at, no page may complain
in the console or ask anybody but the node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page
from support.browser import TIMEOUT_MS, Watched, browsing, program
from support.nodes import builder
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(pytestconfig: pytest.Config) -> AsyncIterator[Browser]:
    async with browsing(program("chromium", pytestconfig)) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest_asyncio.fixture(loop_scope="module")
async def client(node: Node) -> AsyncIterator[NodeClient]:
    async with NodeClient(node.address) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def echo(client: NodeClient, probe_wasm: Path) -> None:
    """The probe, deployed as `echo`."""
    await client.deploy("echo", probe_wasm)


@pytest.fixture
def origin(node: Node) -> str:
    """The node's own origin."""
    return f"http://{node.http_address}"


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, origin: str) -> AsyncIterator[BrowserContext]:
    """A window of somebody who has never been here."""
    context = await browser.new_context(base_url=origin)
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def watched(context: BrowserContext, origin: str) -> Watched:
    return Watched(context, origin)


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext, watched: Watched) -> AsyncIterator[Page]:
    """A page of which nobody has complained when the test is over."""
    yield await context.new_page()
    watched.assert_well()
