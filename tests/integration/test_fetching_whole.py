"""The contract's own HTTP, with whole bodies: what an actor in TypeScript can send and gets.

The other languages reach the same function of the agent; tests/integration/test_fetching.py has one
request of each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.nodes import builder
from support.traces import assert_nothing_left

from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import MIB, Language
from plexspaces_node.node.node import Node
from plexspaces_node.toolchains import build, new_project

MESSAGE_LIMIT = 2 * MIB

SOURCE = """
import { actor } from "plexspaces";

interface Wanted { url: string; init?: RequestInit; repeat?: number; limitMs?: number }

async function* parts(count: number) {
  const encoder = await Promise.resolve(new TextEncoder());
  for (let part = 0; part < count; part += 1) yield encoder.encode("x".repeat(1024));
}

export default actor({
  handlers: {
    async send(_state, { url, init = {}, repeat = 0, limitMs }: Wanted) {
      if (repeat > 0) init.body = ReadableStream.from(parts(repeat));
      if (limitMs !== undefined) init.signal = AbortSignal.timeout(limitMs);
      try {
        const response = await fetch(new Request(url), init);
        const { status, redirected } = response;
        const pairs = [...response.headers].filter(([name]) => name.startsWith("x-"));
        return { status, redirected, at: response.url, pairs, text: await response.text() };
      } catch (error) {
        const { name, message, cause } = error as Error & { cause?: { code: string } };
        return { name, message, code: cause?.code };
      }
    },
    never: () => new Promise<string>(() => {}),
    async order() {
      const said: number[] = [];
      const late = Promise.resolve(3).then((n) => said.push(n)).finally(() => said.push(4));
      said.push(1);
      await null;
      said.push(2);
      const settled = await Promise.allSettled([late, Promise.reject(new Error("no"))]);
      const first = await Promise.any([Promise.reject(1), Promise.resolve(5)]);
      const won = await Promise.race([new Promise(() => {}), Promise.resolve(6)]);
      for await (const part of [Promise.resolve(7)]) said.push(part);
      return [...said, first, won, ...settled.map((one) => one.status)];
    },
  },
});
"""


@pytest.fixture(scope="module")
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An actor that sends what it is told to."""
    project = new_project(
        Language.TYPESCRIPT, "sender", tmp_path_factory.mktemp("guest") / "sender"
    )
    (project / "src/main.ts").write_text(SOURCE)
    try:
        return asyncio.run(build(project, progress=lambda _line: None)).path
    except Unsupported as missing:
        if "typescript" in request.config.getoption("--languages").split(","):
            pytest.fail(f"--languages names typescript, but: {missing.message}")
        pytest.skip(missing.message)


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    limited = builder(data_dir).with_setting("http.address", "off")
    async with limited.with_setting("limits.message_bytes", MESSAGE_LIMIT).build() as node:
        yield node
    assert_nothing_left(data_dir)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was sent; some paths answer otherwise, and `/silent` never."""
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            lines = head.split("\r\n")
            method, path, _ = lines[0].split()
            told = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            sent = await reader.readexactly(int(told.get("content-length", 0)))
            status, extra = "200 OK", ""
            body = f"{method} {path} {told.get('x-from', '')} {len(sent)}".encode()
            if path.startswith("/moved/"):
                status, extra = f"{path[7:10]} Moved", "Location: ../echo?a=1\r\n"
            elif path.startswith("/around"):
                status, extra = "302 Found", "Location: /around\r\n"
            elif path == "/long":
                body = b"x" * (MESSAGE_LIMIT + 1)
            elif path == "/empty":
                status, body = "404 Not Found", b""
            elif path == "/silent":
                await reader.read()
                return
            shown = f"HTTP/1.1 {status}\r\n{extra}X-A: 1\r\nX-A: \xe4\r\nContent-Length: "
            writer.write(shown.encode("latin-1") + b"%d\r\n\r\n" % len(body) + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def test_actor_when_it_fetches_then_it_is_as_the_web_has_it(
    artifact: Path, client: NodeClient
) -> None:
    """Methods, headers, long bodies, redirects, timeouts and errors; the instance lives on."""
    listening = await asyncio.start_server(_serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    site = f"http://{host}"
    await client.deploy("sender", artifact, options=DeployOptions(allow_hosts=(host,)))

    async def send(path: str, **more: Any) -> Any:
        wanted = json.dumps({"url": f"{site}{path}", **more}).encode()
        answer = await client.invoke("sender", wanted, type="send", timeout_s=30)
        return json.loads(answer.payload)

    assert await send("/a?b=ö#c", init={"headers": {"X-From": "me"}}) == {
        "status": 200,
        "redirected": False,
        "at": f"{site}/a?b=ö#c",
        "pairs": [["x-a", "1, ä"]],
        "text": "GET /a?b=%C3%B6 me 0",
    }
    text = {"method": "POST", "body": "hellö"}
    assert (await send("/echo", init=text))["text"] == "POST /echo  6"
    streamed = await send("/echo", init={"method": "put"}, repeat=1024)
    assert streamed["text"] == f"PUT /echo  {MIB}"
    assert (await send("/empty"))["status"] == 404

    for status, method in ((302, "GET"), (303, "GET"), (307, "POST")):
        moved = await send(f"/moved/{status}", init=text)
        assert moved["text"].startswith(f"{method} /echo?a=1"), status
        assert (moved["redirected"], moved["at"]) == (True, f"{site}/echo?a=1")
    manual = await send("/moved/301", init={"redirect": "manual"})
    assert (manual["status"], manual["redirected"]) == (301, False)

    for path, more, name, code in (
        ("/moved/301", {"init": {"redirect": "error"}}, "TypeError", None),
        ("/around", {}, "TypeError", None),
        ("/long", {}, "TypeError", "http-response-body-size"),
        ("/silent", {"limitMs": 50}, "TimeoutError", "http-response-timeout"),
        ("/echo", {"limitMs": 0}, "TimeoutError", None),
        ("/echo", {"init": {"method": "a b"}}, "TypeError", "http-request-method-invalid"),
        ("/echo", {"init": {"body": "x"}}, "TypeError", None),
        ("/echo", {"url": "http://127.0.0.1:1/"}, "TypeError", "http-request-denied"),
        ("/echo", {"url": f"{site}:0:0/"}, "TypeError", "http-request-uri-invalid"),
    ):
        failed = await send(path, **more)
        assert (failed.get("name"), failed.get("code")) == (name, code), failed

    ordered = await client.invoke("sender", b"", type="order")
    assert json.loads(ordered.payload) == [1, 3, 2, 4, 7, 5, 6, "fulfilled", "rejected"]
    with pytest.raises(Exception, match="never settles"):
        await client.invoke("sender", b"", type="never")
    assert (await client.inspect("sender")).restarts == 0
    listening.close()
