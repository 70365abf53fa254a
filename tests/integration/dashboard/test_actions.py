"""What can be done from the page: messages, deploys, and what asks before it hurts."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.async_api import FilePayload, Locator, Page, expect
from support.nodes import reached

from plexspaces_node import NodeClient
from plexspaces_node.model import ApplicationState

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("echo")]

DROPS = """async ([name, content]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.fromBase64(content)], name));
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
    document.querySelector("main").dispatchEvent(event);
  }
}"""


def button(page: Page, name: str) -> Locator:
    """A button with just this text."""
    return page.get_by_role("button", name=name, exact=True)


class TestInvoke:
    async def test_message_when_sent_from_the_page_then_its_reply_and_times_are_shown(
        self, page: Page
    ) -> None:
        """The form sends type and payload as they are, here by the keyboard."""
        await page.goto("/#/app/echo")
        await button(page, "Send a message…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Type").fill("e")
        await dialog.get_by_label("Payload", exact=True).fill('{"a": "grüße <b>"}')
        await dialog.get_by_role("button", name="Send").press("Enter")
        await expect(dialog.locator(".reply pre").first).to_contain_text("grüße <b>")
        await expect(dialog.locator(".reply")).to_contain_text("Link and node")
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)

    async def test_reply_when_json_then_indented_with_every_digit(self, page: Page) -> None:
        """A number of JavaScript has 53 bits, and no zero after the point."""
        await page.goto("/#/app/echo")
        await button(page, "Send a message…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Type").fill("e")
        sent = r'{"a":9007199254740993,"b":[3.0,{},[ ]],"c":"{\"x\":[1]}"}'
        await dialog.get_by_label("Payload", exact=True).fill(sent)
        await dialog.get_by_role("button", name="Send").click()
        shown = dialog.locator(".reply pre").first
        await expect(shown).to_contain_text("3.0")
        assert await shown.text_content() == (
            '{\n  "a": 9007199254740993,\n  "b": [\n    3.0,\n    {},\n    []\n  ],\n'
            r'  "c": "{\"x\":[1]}"'
            "\n}"
        )
        await expect(dialog.locator(".reply")).to_contain_text(f"{len(sent)} bytes.")

    async def test_message_that_fails_when_sent_then_how_is_shown(self, page: Page) -> None:
        """The application's own error is not the node's."""
        await page.goto("/#/app/echo")
        await button(page, "Send a message…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Type").fill("x")
        await dialog.get_by_role("button", name="Send").click()
        await expect(dialog).to_contain_text("The application returned an error")


class TestDeploy:
    async def test_file_when_chosen_then_deployed(
        self, page: Page, client: NodeClient, probe_wasm: Path
    ) -> None:
        """It has the file's name, its phases are shown, and it is there."""
        await page.goto("/")
        await button(page, "Deploy…").click()
        dialog = page.get_by_role("dialog")
        content = probe_wasm.read_bytes()
        for file in ("My App.wasm", "From_Browser.wasm"):
            upload = FilePayload(name=file, mimeType="application/wasm", buffer=content)
            await dialog.get_by_label("File").set_input_files(upload)
        await expect(dialog.get_by_label("Name")).to_have_value("from-browser")
        await dialog.get_by_role("button", name="Deploy").click()
        await expect(dialog.locator(".success")).to_contain_text("Running")
        await expect(dialog).to_contain_text("compile")
        await dialog.get_by_role("link", name="from-browser").click()
        await expect(page.get_by_role("heading", name="from-browser")).to_be_visible()
        assert (await client.invoke("from-browser", b"x", type="e")).payload == b"x"

    async def test_file_when_dropped_on_an_application_then_replaces_it_after_a_question(
        self, page: Page, client: NodeClient, probe_wasm: Path
    ) -> None:
        """Dropped alone it does nothing."""
        await page.goto("/#/app/echo")
        await expect(button(page, "Replace…")).to_be_visible()
        content = base64.b64encode(probe_wasm.read_bytes()).decode()
        await page.evaluate(DROPS, ["new.wasm", content])
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("new.wasm")
        assert (await client.inspect("echo")).version != "2.0.0"
        await dialog.get_by_label("Version").fill("2.0.0")
        await dialog.get_by_role("button", name="Replace").click()
        await expect(dialog.locator(".success")).to_contain_text("Running")
        assert (await client.inspect("echo")).version == "2.0.0"

    async def test_file_when_it_is_no_application_then_says_so(
        self, page: Page, client: NodeClient, tmp_path: Path
    ) -> None:
        """A picture at once, a broken module once the node has looked at it; nothing is left."""
        await page.goto("/")
        await button(page, "Deploy…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name").fill("broken")
        for name, content in (("picture.png", b"\x89PNG"), ("broken.wasm", b"\0asm no code")):
            (tmp_path / name).write_bytes(content)
            await dialog.get_by_label("File").set_input_files(tmp_path / name)
            await dialog.locator("button[type=submit]").click()
            await expect(dialog.get_by_role("alert")).to_be_visible()
        assert [each.name for each in (await client.list()).applications] == ["echo"]


class TestStop:
    async def test_stop_when_asked_for_then_only_once_it_is_confirmed(
        self, page: Page, client: NodeClient
    ) -> None:
        """What Enter does first is not what hurts; then it stops, and can be started again."""
        await page.goto("/#/app/echo")
        await button(page, "Stop…").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(dialog).to_have_count(0)
        assert (await client.inspect("echo")).state is ApplicationState.RUNNING
        await button(page, "Stop…").click()
        await dialog.get_by_role("button", name="Stop").click()
        await reached(client, "echo", ApplicationState.STOPPED)
        await expect(page.locator(".title")).to_contain_text("Stopped")
        await button(page, "Start").click()
        await reached(client, "echo", ApplicationState.RUNNING)
        await expect(page.locator(".title")).to_contain_text("Running")

    async def test_undeploy_when_confirmed_then_the_application_is_gone(
        self, page: Page, client: NodeClient
    ) -> None:
        """And the page of all is shown."""
        await page.goto("/#/app/echo")
        await button(page, "Undeploy…").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("cannot be had back")
        await dialog.get_by_role("button", name="Undeploy echo").click()
        await expect(page).to_have_title("Applications · PlexSpaces")
        assert (await client.list()).applications == ()
