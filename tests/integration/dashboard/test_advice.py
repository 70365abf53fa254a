"""The card with advice: what a real node advises, as it says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from support.level_records import measured

from plexspaces_node import NodeClient, level_figures

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPE = "e<img src=x onerror=alert(1)>\x1b[2J"


@pytest.mark.usefixtures("echo")
async def test_advice_when_there_is_some_then_with_numbers_and_reckoning(
    page: Page, client: NodeClient, data_dir: Path, probe_wasm: Path
) -> None:
    """About each application, and about all; a type that a client made up is text."""
    figures = (measured("process", 100_000), measured("qemu", 100_100))
    level_figures.write(Path(f"{data_dir}.levels"), figures)
    # Of two applications the level is advised together.
    await client.deploy("idle", probe_wasm)
    for _ in range(200):
        await client.invoke("echo", b"one", type=TYPE)
    await page.goto("/")
    card = page.get_by_role("region", name="Advice", exact=True)
    batch = card.get_by_role("article").filter(has_text="Send about")
    await expect(batch).to_contain_text("e<img src=x onerror=alert(1)>")
    await expect(batch).to_contain_text("saves ")
    await expect(batch).to_contain_text("mean payload 3 B")
    await batch.get_by_text("How it is reckoned").click()
    await expect(batch).to_contain_text("It takes for granted that")
    level = card.get_by_role("article").filter(has_text="At the level qemu")
    await expect(level).to_contain_text("All applications: ")
    await expect(level).to_contain_text("costs ")
    await card.get_by_text("Too little data for some rules").click()
    await expect(card).to_contain_text("idle had 0 in ")
    # Of one application alone.
    await page.goto("/#/app/echo")
    await expect(page.get_by_role("region", name="Advice", exact=True)).to_contain_text(
        "Send about"
    )
