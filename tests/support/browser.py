"""A headless Chromium, the one that is installed, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Request,
    WebError,
    async_playwright,
    expect,
)
from support.patience import patient

TIMEOUT_MS = patient(20) * 1000
"""For whatever a page is waited for."""

expect.set_options(timeout=TIMEOUT_MS)


def program(name: str, config: pytest.Config) -> str:
    """Return where a program is; without it the test is skipped, unless it must run."""
    found = shutil.which(name)
    if found is None:
        if name in config.getoption("--clients").split(","):
            pytest.fail(f"{name} is not installed, and --clients names it: make clients")
        pytest.skip(f"{name} is not installed: make clients")
    return found


_NOT_LOADED = "Failed to load resource"


@asynccontextmanager
async def browsing(path: str) -> AsyncIterator[Browser]:
    """Run the browser at `path` in the body, with a profile that is gone afterwards."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, timeout=patient(60) * 1000, args=["--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """What the pages of a context did that they should not have done."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        """Watch from now on; they should ask nobody but `origin`."""
        self._origin = origin
        self.errors: list[str] = []
        """What the console and uncaught exceptions said."""
        self.elsewhere: list[str] = []
        """Whom else they asked."""
        context.on("console", self._said)
        context.on("weberror", self._failed)
        context.on("request", self._asked)

    def assert_well(self) -> None:
        """Fail if they complained of anything, or asked somebody else."""
        found = [*self.errors, *self.elsewhere]
        assert not found, found

    def _said(self, message: ConsoleMessage) -> None:
        # That the API said no, or nothing any more, is for the page to show.
        is_answer = "/v1/" in message.location["url"] and message.text.startswith(_NOT_LOADED)
        if message.type in ("error", "warning") and not is_answer:
            self.errors.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _failed(self, error: WebError) -> None:
        self.errors.append(f"uncaught: {error.error}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self._origin}/", "data:", "blob:")):
            self.elsewhere.append(request.url)
