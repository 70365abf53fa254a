"""The page of one application: its figures are those that the node measured."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Locator, Page, expect
from support.actors import Init, probe
from support.patience import patient

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, ActorTrapped, VmStartFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")


def card(page: Page, title: str) -> Locator:
    """A part of the page, by its title."""
    return page.get_by_role("region", name=title, exact=True)


def cells(page: Page, title: str, first: str) -> Locator:
    """What a row of a table says after its first column."""
    table = card(page, title).get_by_role("table")
    row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=first, exact=True))
    return row.get_by_role("cell")


async def told(origin: str, path: str, **query: str) -> Any:
    """What the node says."""
    async with httpx.AsyncClient(base_url=origin) as http:
        return (await http.get(path, params=query)).raise_for_status().json()


@pytest.mark.usefixtures("echo")
class TestTimes:
    async def test_messages_when_sent_then_their_times_are_shown(
        self, page: Page, client: NodeClient, origin: str
    ) -> None:
        """In total, by type, and over time in charts with their numbers."""
        await page.goto("/#/app/echo")
        await expect(page.get_by_text("No messages since the node started.")).to_be_visible()
        for _ in range(30):
            await client.invoke("echo", b"12345678", type="e")
        with pytest.raises(ActorFailed):
            await client.invoke("echo", b"no", type="f")
        await expect(cells(page, "Message types", "e").first).to_have_text("30")
        assert await cells(page, "Message types", "e").nth(5).inner_text() == "8 B"
        assert await cells(page, "Message types", "f").nth(1).inner_text() == "1"
        time = card(page, "Where the time goes")
        await time.get_by_role("button", name="Since the node started").click()
        await expect(time).to_contain_text("of the time of 31 messages is coordination")
        await expect(card(page, "The last minutes").locator("canvas")).to_have_count(3)
        await page.get_by_text("The numbers as a table").click()
        minutes = card(page, "The last minutes").get_by_role("table")
        shown = await minutes.get_by_role("row").locator("td:nth-of-type(1)").all_inner_texts()
        history = (await told(origin, "/v1/applications/echo/activity"))["history"]
        assert sum(map(int, shown)) == sum(each["spent"]["messages"] for each in history) == 31

    async def test_part_when_its_name_is_pressed_then_the_chart_is_without_it(
        self, page: Page, client: NodeClient
    ) -> None:
        """The largest hides the others; the picture is another one."""
        await client.invoke("echo", b"x", type="e")
        await page.goto("/#/app/echo")
        canvas = card(page, "The last minutes").locator("canvas").first
        await expect(canvas).to_be_visible()
        before = await canvas.evaluate("canvas => canvas.toDataURL()")
        button = card(page, "The last minutes").get_by_role("button", name="Link and node")
        await button.click()
        await expect(button).to_have_attribute("aria-pressed", "false")
        assert await canvas.evaluate("canvas => canvas.toDataURL()") != before


class TestStarts:
    async def test_starts_when_they_have_been_then_their_phases_are_shown(
        self, page: Page, client: NodeClient, probe_wasm: Path, origin: str
    ) -> None:
        """Each phase with its time, at one scale, and why one has failed."""
        await client.deploy("echo", probe_wasm)
        await client.stop("echo")
        await client.start("echo")
        bad = probe_wasm.parent / "bad.wasm"
        bad.write_bytes(probe(Init.TRAP))
        with pytest.raises((VmStartFailed, ActorTrapped)):
            await client.deploy("echo", bad, options=DeployOptions(replace=True, version="2.0.0"))
        await page.goto("/#/app/echo")
        await expect(card(page, "Deploys and starts")).to_contain_text("Rolled back")
        starts = (await told(origin, "/v1/applications/echo/activity"))["starts"]
        items = card(page, "Deploys and starts").get_by_role("list").first.locator("> li")
        await expect(items).to_have_count(len(starts))
        names = ("compile", "vm", "load", "init")
        for start, item in zip(starts, await items.all(), strict=True):
            text = await item.inner_text()
            assert (("failed" in text), ("2.0.0" in text)) == ((start["failed"],) * 2)
            for phase in start["phases"]:
                assert phase["name"] in text
            widths = await item.locator(".phase-bar .phase").evaluate_all(
                "parts => parts.map((part) => part.getBoundingClientRect().width)"
            )
            assert len(widths) == len(start["phases"])
        last = starts[-1]
        assert [phase["name"] for phase in last["phases"]][-4:] == list(names)
        lengths = await items.last.locator(".phase-bar .phase").evaluate_all(
            "parts => parts.map((part) => parseFloat(part.style.width))"
        )
        longest = max(sum(phase["duration_ns"] for phase in one["phases"]) for one in starts)
        for length, phase in zip(lengths, last["phases"], strict=True):
            assert length == pytest.approx(phase["duration_ns"] / longest * 100, abs=0.01)


@pytest.mark.usefixtures("echo")
class TestFailures:
    async def test_error_when_there_was_one_then_its_trace_is_a_click_away(
        self, page: Page, client: NodeClient
    ) -> None:
        """With the trap; and the log is looked through for its lines by the node."""
        with pytest.raises(ActorTrapped):
            await client.invoke("echo", b"", type="t")
        await page.goto("/#/app/echo")
        errors = card(page, "Last errors")
        await expect(errors).to_contain_text("t crashed: unreachable")
        await errors.get_by_role("button", name="Trace").first.click()
        traces = card(page, "Traces")
        await expect(traces.get_by_role("table").first).to_contain_text("unreachable")
        trace = await traces.locator("code").first.inner_text()
        async with page.expect_request(lambda request: f"trace_id={trace}" in request.url):
            await errors.get_by_role("button", name="Its log lines").first.click()
        await expect(page.get_by_label("Filter the log")).to_have_value(trace)


class TestTraces:
    async def test_ask_when_traced_then_it_is_drawn_within_the_message_that_asked(
        self, page: Page, client: NodeClient, probe_wasm: Path, origin: str
    ) -> None:
        """By its start and its end; and the bill is the node's, with the hop to blame."""
        for name in ("front", "back"):
            await client.deploy(name, probe_wasm)
        await client.invoke("front", b"\x04backehello", type="ask")
        [trace] = (await told(origin, "/v1/applications/front/traces"))["traces"]
        first, asked = trace["spans"]
        await page.goto("/#/app/front")
        traces = card(page, "Traces")
        await traces.locator("summary").first.click()
        bars = traces.get_by_role("table").first.locator("td.track .bar")
        await expect(bars).to_have_count(2)
        outer, inner = [await bar.bounding_box() for bar in await bars.all()]
        assert outer is not None
        assert inner is not None
        part = outer["width"] / first["total_ns"]
        begin = (asked["start_unix_ns"] - first["start_unix_ns"]) * part
        assert inner["x"] - outer["x"] == pytest.approx(begin, abs=1)
        assert inner["width"] == pytest.approx(max(asked["total_ns"] * part, 2), abs=1)
        assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
        await expect(traces).to_contain_text("sizes, not positions")
        hops = traces.get_by_role("table").last.locator("tbody tr")
        bill = trace["bill"]
        await expect(hops).to_have_count(len(bill["hops"]))
        await expect(hops.nth(bill["blame"])).to_contain_text("to blame")
        for hop, row in zip(bill["hops"], await hops.all(), strict=True):
            assert f"{hop['application']} {hop['type']}" in await row.inner_text()
        said = re.search(r"([\d.]+) (µs|ms) compute", await traces.inner_text())
        assert said is not None
        compute_ns = float(said[1]) * {"µs": 1e3, "ms": 1e6}[said[2]]
        assert compute_ns == pytest.approx(bill["compute_ns"], rel=0.01)

    async def test_trace_when_its_address_is_opened_then_it_is_shown(
        self, page: Page, client: NodeClient, probe_wasm: Path, origin: str
    ) -> None:
        """And that one is not kept is said."""
        await client.deploy("echo", probe_wasm)
        await client.invoke("echo", b"x", type="e")
        [trace] = (await told(origin, "/v1/applications/echo/traces"))["traces"]
        await page.goto(f"/#/app/echo/trace/{trace['trace_id']}")
        await expect(card(page, "Traces").get_by_text(trace["trace_id"])).to_be_visible()
        await page.goto(f"/#/app/echo/trace/{'0' * 31}1")
        await expect(card(page, "Traces")).to_contain_text("is not kept any more")


@pytest.mark.usefixtures("echo")
class TestLog:
    async def test_log_when_filtered_then_shows_what_matches(
        self, page: Page, client: NodeClient
    ) -> None:
        """By text and by level, also lines that come later."""
        for text in (b"one apple", b"two pears"):
            await client.invoke("echo", text, type="o")
        await page.goto("/#/app/echo")
        log = page.get_by_role("log", name="Log")
        await expect(log).to_contain_text("two pears")
        await page.get_by_label("Filter the log").fill("PEARS")
        await expect(log.get_by_text("one apple")).to_be_hidden()
        await client.invoke("echo", b"three pears", type="o")
        await client.invoke("echo", b"four apples", type="o")
        await expect(log.get_by_text("three pears")).to_be_visible()
        await expect(log.get_by_text("four apples")).to_be_hidden()
        await page.get_by_label("Filter the log").fill("")
        await expect(log.get_by_text("four apples")).to_be_visible()
        await page.get_by_label("Level").select_option("Errors")
        await expect(log.get_by_text("four apples")).to_be_hidden()


@pytest.mark.usefixtures("echo")
class TestAdvice:
    async def test_advice_when_there_is_some_then_it_is_shown_with_its_numbers(
        self, page: Page, client: NodeClient, origin: str
    ) -> None:
        """The node's own, on both pages, and what there is too little data for."""
        for _ in range(10):
            await asyncio.gather(*(client.invoke("echo", b"x", type="e") for _ in range(20)))
        await page.goto("/")
        advice = card(page, "Advice")
        async with asyncio.timeout(patient(30)):
            while not (said := await told(origin, "/v1/advice"))["advice"]:
                await client.invoke("echo", b"x", type="e")
        await page.reload()
        await expect(advice.get_by_role("article").first).to_contain_text("echo: ")
        await expect(advice.get_by_role("article").first).to_contain_text("saves")
        await advice.get_by_text("How it is reckoned").first.click()
        await expect(advice).to_contain_text("messages")
        assert len(await advice.get_by_role("article").all()) >= len(said["advice"]) > 0
        await page.goto("/#/app/echo")
        await expect(card(page, "Advice").get_by_role("article").first).to_contain_text("saves")


class TestMachines:
    @pytest.mark.usefixtures("echo")
    async def test_machines_when_there_are_some_then_what_they_use_is_shown(
        self, page: Page, client: NodeClient
    ) -> None:
        """Memory and processor time as the node measures them; an empty VM too."""
        await client.start_vm("spare")
        await page.goto("/#/machines")
        rows = page.get_by_role("row")
        echo = rows.filter(has=page.get_by_role("link", name="echo", exact=True))
        await expect(echo.get_by_role("cell").nth(1)).to_contain_text("Running")
        await expect(echo.get_by_role("cell").nth(3)).to_contain_text("MiB /")
        await expect(echo.get_by_role("cell").nth(4)).to_contain_text("%")
        await expect(rows.filter(has_text="spare")).to_contain_text("Empty")
        await client.stop_vm("spare")
        await expect(rows.filter(has_text="spare")).to_have_count(0)

    @pytest.mark.usefixtures("echo")
    async def test_console_when_asked_for_then_opens_and_the_focus_returns(
        self, page: Page
    ) -> None:
        """Whatever was written; closed by Escape."""
        await page.goto("/#/machines")
        button = page.get_by_role("button", name="Console of echo")
        await button.click()
        await expect(page.get_by_role("dialog", name="Console of echo")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(button).to_be_focused()
