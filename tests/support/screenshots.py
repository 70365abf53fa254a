"""Makes the pictures of the dashboard in docs/images, of a real node and real applications.

`scripts/screenshots` runs it. The examples are deployed and used as their pages say, so that what
the pictures show was measured. An example whose compiler is missing is left out, and named.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from playwright.async_api import Browser, FloatRect, Page, expect
from support.browser import browsing
from support.nodes import builder

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorError, Unsupported
from plexspaces_node.toolchains import build

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 200_000
"""Of one picture: who reads a page on the way pays for it."""

_EDGE = 12
"""Pixels beside a part of a page."""

LOAD_S = 45.0
"""How long the applications are used before they are shown."""

APPLICATIONS = {
    "calculator": "python-calculator",
    "counter": "rust-counter",
    "greeter": "ts-greeter",
    "greeter-it": "ts-greeter",
    "ledger": "go-ledger",
    "primes": "go-primes",
    "hello": "rust-hello-http",
}
"""Which example each application is."""


async def main() -> None:
    """Make every picture."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("error: chromium is not installed\nhint: make clients")
    with tempfile.TemporaryDirectory(prefix="px-") as scratch:
        build_ = builder(Path(scratch) / "data").with_setting("http.address", "127.0.0.1:0")
        async with build_.build() as node, NodeClient(node.address) as client:
            deployed = await _deploy(client, Path(scratch))
            using = asyncio.create_task(_use(client, deployed))
            await asyncio.sleep(LOAD_S)
            async with browsing(program) as browser:
                await _take(browser, f"http://{node.http_address}")
            using.cancel()
            await asyncio.gather(using, return_exceptions=True)


async def _deploy(client: NodeClient, scratch: Path) -> set[str]:
    deployed = set()
    for name, example in APPLICATIONS.items():
        wasm = scratch / f"{example}.wasm"
        try:
            if not wasm.exists():
                _note(f"building {example}")
                await build(ROOT / "examples" / example, wasm, progress=lambda _line: None)
        except Unsupported as missing:
            _note(f"without {name}: {missing}")
            continue
        await client.deploy(name, wasm, options=DeployOptions(memory_mib=128))
        deployed.add(name)
    return deployed


async def _use(client: NodeClient, deployed: set[str]) -> None:
    """Send what the pages of the examples send, some of it more often, for as long as it takes."""

    async def send(name: str, msg_type: str, payload: object, every_s: float) -> None:
        for _ in count():
            body = payload if isinstance(payload, str) else json.dumps(payload)
            # One that was asked for: the page has a part for it.
            with suppress(ActorError):
                await client.invoke(name, body.encode(), type=msg_type)
            await asyncio.sleep(every_s)

    if "greeter-it" in deployed:
        lesson = {"language": "en", "words": "Ciao"}
        await client.invoke("greeter-it", json.dumps(lesson).encode(), type="teach")
    uses: list[tuple[str, str, object, float]] = [
        ("calculator", "add", {"a": 19, "b": 23}, 0.02),
        ("calculator", "div", {"a": 1, "b": 0}, 2.3),
        ("calculator", "primes", "20000", 0.7),
        ("counter", "add", {"name": "apples", "amount": 3}, 0.005),
        ("greeter", "greet", {"name": "Ada"}, 0.05),
        ("greeter", "introduce", {"name": "Ada", "to": "greeter-it"}, 0.1),
        ("ledger", "book", {"to": "ada", "cents": 100}, 0.03),
        ("primes", "primes", "300000", 0.15),
        ("hello", "echo", "some text", 0.04),
    ]
    await asyncio.gather(*(send(*use) for use in uses if use[0] in deployed))


async def _take(browser: Browser, origin: str) -> None:
    for name, scheme in (("dashboard-light", "light"), ("dashboard-dark", "dark")):
        context = await browser.new_context(
            base_url=origin,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": 1200, "height": 640},
        )
        page = await context.new_page()
        await page.goto("/")
        await expect(page.locator("table.applications tbody tr").first).to_contain_text("%")
        # Once its table has no more to say about how long it took to open.
        await asyncio.sleep(3)
        await _keep(page.screenshot, name)
        if scheme == "light":
            await _take_application(page)
        await context.close()


async def _take_application(page: Page) -> None:
    name = "greeter"
    await page.goto(f"/#/app/{name}")
    await expect(page.locator(".log .line").first).to_be_attached()
    await asyncio.sleep(3)
    await page.set_viewport_size({"width": 1200, "height": 1000})
    await _keep(page.screenshot, "dashboard-application")
    traces = page.locator("#traces")
    asked = traces.locator("details", has_text="introduce").first
    await asked.locator("summary").click()
    await expect(asked.locator(".bill")).to_be_visible()
    await page.set_viewport_size({"width": 1200, "height": 1400})
    box = await asked.bounding_box()
    assert box is not None
    clip = FloatRect(
        x=box["x"] - _EDGE,
        y=box["y"],
        width=box["width"] + 2 * _EDGE,
        height=box["height"],
    )
    await _keep(partial(page.screenshot, clip=clip), "dashboard-trace")


async def _keep(screenshot: Callable[..., Awaitable[bytes]], name: str) -> None:
    path = IMAGES / f"{name}.png"
    picture = await screenshot(path=path, animations="disabled", caret="hide")
    _note(f"{path.relative_to(ROOT)}: {len(picture) // 1000} kB")
    if len(picture) > MOST_BYTES:
        raise SystemExit(f"error: {path} is larger than {MOST_BYTES // 1000} kB")


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    asyncio.run(main())
