"""Clients that people use: curl, httpx, a browser, and requests made from the OpenAPI document."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Error, Page
from support.browser import browsing, program
from support.nodes import builder
from support.other_site import serving
from support.patience import patient
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.model import MIB
from plexspaces_node.node.http.openapi import document
from plexspaces_node.node.node import Node

Curl = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
async def other_site() -> AsyncIterator[int]:
    """A web site of somebody else, whose pages are empty; yields its port."""
    async with serving() as port:
        yield port


@pytest.fixture
async def node(data_dir: Path, other_site: int) -> AsyncIterator[Node]:
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    build = build.with_setting("limits.message_bytes", 4 * MIB)
    build = build.with_setting("limits.message_timeout_s", patient(2.0))
    build = build.with_setting("limits.empty_vms", 2)
    allowed = f"http://friend.localhost:{other_site}"
    async with build.with_setting("http.cors_origins", allowed).build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture
def address(node: Node) -> str:
    """The node's own origin."""
    return f"http://{node.http_address}"


@pytest.fixture
def curl(pytestconfig: pytest.Config, tmp_path: Path) -> Curl:
    """Runs curl, and returns its exit status and what it wrote."""
    path = program("curl", pytestconfig)

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(path, "--silent", "--show-error", "--max-time", str(patient(60)), *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    return run


class TestCurl:
    async def test_page_of_the_documentation_works_as_it_is_written(
        self, curl: Curl, address: str, probe_wasm: Path
    ) -> None:
        """Upload, deploy, send, read the log, stop, remove."""
        said = await curl("-T", str(probe_wasm), f"{address}/v1/artifacts/")
        digest = hashlib.sha256(probe_wasm.read_bytes()).hexdigest()
        assert json.loads(said[1])["digest"] == digest
        deploy = json.dumps({"name": "echo", "digest": digest, "replace": True})
        status, said_ = await curl("-d", deploy, f"{address}/v1/applications")
        assert (status, json.loads(said_)["state"]) == (0, "Running")
        assert await curl("-d", '{"a": 1}', f"{address}/apps/echo/e") == (0, '{"a": 1}')
        await curl("-d", "a line", f"{address}/apps/echo/o")
        status, log = await curl(f"{address}/v1/applications/echo/logs?tail=1")
        assert (status, json.loads(log)["message"]) == (0, "a line")
        status, said_ = await curl("-X", "POST", f"{address}/v1/applications/echo/stop")
        assert (status, json.loads(said_)["state"]) == (0, "Stopped")
        assert await curl("-X", "DELETE", f"{address}/v1/applications/echo") == (0, "")

    @pytest.mark.usefixtures("echo")
    async def test_name_is_a_host_of_its_own(self, curl: Curl, node: Node) -> None:
        """Curl knows that NAME.localhost is this host, as browsers do."""
        port = node.http_address.rpartition(":")[2]
        assert await curl("-d", "x", f"http://echo.localhost:{port}/e") == (0, "x")

    @pytest.mark.usefixtures("echo")
    async def test_timing_and_status_are_what_curl_shows(self, curl: Curl, address: str) -> None:
        """The header says where the time went; --fail ends with 22 for a problem."""
        _, headers = await curl("-D", "-", "-o", "/dev/null", "-d", "x", f"{address}/apps/echo/e")
        assert re.search(r"(?m)^server-timing: compute;dur=", headers)
        status, _ = await curl("--fail", "-d", "x", f"{address}/apps/nobody/e")
        assert status == 22
        head = await curl("--head", f"{address}/v1/node")
        assert (head[0], "200 OK" in head[1]) == (0, True)

    @pytest.mark.usefixtures("echo")
    async def test_long_message_waits_for_the_word_to_send(
        self, curl: Curl, address: str, tmp_path: Path
    ) -> None:
        """Curl expects 100 of its own before a long body; too long a one is not sent at all."""
        (tmp_path / "long").write_bytes(b"x" * 3 * MIB)
        (tmp_path / "longer").write_bytes(b"x" * 5 * MIB)
        patience = ("--expect100-timeout", str(patient(30)))
        sent = ("--data-binary", "@long", "-o", "back")
        _, said = await curl("-v", *patience, *sent, f"{address}/apps/echo/e")
        assert "100 Continue" in said
        assert (tmp_path / "back").read_bytes() == b"x" * 3 * MIB
        wanted = (
            "-w",
            "%{http_code} %{size_upload}",
            "-o",
            "/dev/null",
            "--data-binary",
            "@longer",
        )
        assert await curl(*wanted, f"{address}/apps/echo/e") == (0, "413 0")


class TestHttpx:
    @pytest.fixture
    async def http(self, address: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client as programs have one."""
        async with httpx.AsyncClient(base_url=address, timeout=patient(60)) as http:
            yield http

    @pytest.mark.usefixtures("echo")
    async def test_many_at_once_each_get_their_own_reply(self, http: httpx.AsyncClient) -> None:
        """Over as many connections as the client likes, which it keeps."""
        bodies = [{"number": number} for number in range(100)]
        asked = [http.post("/apps/echo/e", json=body) for body in bodies]
        answers = [reply.json() for reply in await asyncio.gather(*asked)]
        assert answers == bodies

    @pytest.mark.usefixtures("echo")
    async def test_body_of_unknown_length_comes_in_chunks(self, http: httpx.AsyncClient) -> None:
        """As a generator is sent."""

        async def pieces() -> AsyncIterator[bytes]:
            for letter in (b"a", b"b", b"c"):
                yield letter * 100_000

        reply = await http.post("/apps/echo/e", content=pieces())
        assert reply.content == b"a" * 100_000 + b"b" * 100_000 + b"c" * 100_000

    @pytest.mark.usefixtures("echo")
    async def test_failure_of_an_application_is_told_in_both_ways(
        self, http: httpx.AsyncClient
    ) -> None:
        """422 by its address; 200 with `failure` by `invoke`, as over gRPC."""
        problem = await http.post("/apps/echo/x")
        assert (problem.status_code, problem.json()["title"]) == (
            422,
            "The application returned an error",
        )
        invoked = await http.post("/v1/applications/echo/invoke", json={"type": "x"})
        assert invoked.status_code == 200
        assert invoked.json()["failure"]["code"] == problem.json()["code"]
        assert invoked.json()["timings"]["total_ns"] > 0

    @pytest.mark.usefixtures("echo")
    async def test_log_is_followed_line_by_line(self, http: httpx.AsyncClient) -> None:
        """And the connection is given back when the client has seen enough."""
        async with http.stream("GET", "/v1/applications/echo/logs?follow") as log:
            assert log.headers["content-type"] == "application/x-ndjson"
            await http.post("/apps/echo/o", content=b"a line")
            async for line in log.aiter_lines():
                if json.loads(line)["message"] == "a line":
                    break
        assert (await http.post("/apps/echo/e", content=b"x")).content == b"x"


_FETCH = """async () => {
const seen = new Promise(done => new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (entry.name.endsWith('/e')) done(entry);
}).observe({type: 'resource', buffered: true}));
const reply = await fetch('%s', {method: 'POST', body: '{"a": 1}'});
const body = await reply.text();
const timing = (await seen).serverTiming.map(one => one.name);
return [reply.status, body, reply.headers.get('server-timing'), timing];
}"""
PARTS = ["compute", "wait", "queue", "coordination"]


@pytest.mark.usefixtures("echo")
class TestBrowser:
    @pytest.fixture
    async def page(self, pytestconfig: pytest.Config) -> AsyncIterator[Page]:
        async with browsing(program("chromium", pytestconfig)) as browser:
            yield await browser.new_page()

    async def test_page_shows_the_api(self, page: Page, address: str) -> None:
        """As it is meant to look, without a script; its link leads to the document."""
        await page.goto(f"{address}/api")
        rows = await page.locator("tr").evaluate_all(
            "rows => rows.map(row => row.innerText.split('\\t'))"
        )
        listed = {(method, path) for method, path, _ in rows}
        paths = document()["paths"]
        assert listed == {(method.upper(), path) for path in paths for method in paths[path]}
        assert "PlexSpaces node" in await page.title()
        padding = "getComputedStyle(document.querySelector('td')).paddingRight"
        assert await page.evaluate(padding) != "0px"
        await page.locator("a").click()
        document_ = await page.evaluate("JSON.parse(document.body.innerText)")
        assert document_["openapi"] == "3.1.0"

    async def test_page_of_the_node_reaches_applications(self, page: Page, address: str) -> None:
        """By fetch, and the browser's own tools show where the time went."""
        await page.goto(f"{address}/openapi.json")
        status, body, header, timing = await page.evaluate(_FETCH % "/apps/echo/e")
        assert (status, body, timing) == (200, '{"a": 1}', PARTS)
        assert header.startswith("compute;dur=")

    async def test_page_of_an_application_reaches_it(self, page: Page, node: Node) -> None:
        """At its own host, which the browser finds without a name server."""
        port = node.http_address.rpartition(":")[2]
        await page.goto(f"http://echo.localhost:{port}/")
        status, body, _, timing = await page.evaluate(_FETCH % "/e")
        assert (status, body, timing) == (200, '{"a": 1}', PARTS)

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "echo.localhost"])
    async def test_page_of_another_origin_is_refused(
        self, page: Page, client: NodeClient, address: str, other_site: int, host: str
    ) -> None:
        """It reads nothing, and what it sends without reading does not reach the application."""
        await page.goto(f"http://{host}:{other_site}/")
        for path in ("/apps/echo/e", "/v1/applications"):
            with pytest.raises(Error, match="Failed to fetch"):
                await page.evaluate(f"fetch('{address}{path}', {{method: 'POST', body: 'x'}})")
        with pytest.raises(Error, match="Failed to fetch"):
            await page.evaluate(f"fetch('{address}/v1/node')")
        blind = f"fetch('{address}/apps/echo/e', {{method: 'POST', mode: 'no-cors'}}).then(() => 1)"
        assert await page.evaluate(blind) == 1
        assert (await client.inspect("echo")).counters.messages == 0

    async def test_page_of_an_allowed_origin_reads_all(
        self, page: Page, address: str, other_site: int
    ) -> None:
        """Also with a content type that has the browser ask first, and the timing."""
        await page.goto(f"http://friend.localhost:{other_site}/")
        status, body, header, timing = await page.evaluate(_FETCH % f"{address}/apps/echo/e")
        assert (status, body, timing) == (200, '{"a": 1}', PARTS)
        assert header.startswith("compute;dur=")
        asking = "{method: 'POST', body: '1', headers: {'content-type': 'application/json'}}"
        said = await page.evaluate(
            f"fetch('{address}/apps/echo/e', {asking}).then(reply => reply.text())"
        )
        assert said == "1"


# What a run is told of this node: names there are, a message that ends, no stream that never does.
_KNOWN = """
[[operations]]
include-operation-id = "WatchActivity"
enabled = false
[[operations]]
include-operation-id = ["Inspect", "Invoke", "InspectVm"]
parameters = { name = "echo" }
[[operations]]
include-operation-id = ["Logs", "VmConsole"]
parameters = { name = "echo", follow = false }
[[operations]]
include-operation-id = "ReadAudit"
parameters = { follow = false }
[[operations]]
include-operation-id = "SendMessage"
parameters = { name = "echo", type = "e" }
"""


@pytest.mark.usefixtures("echo")
async def test_every_request_of_the_document_is_answered_as_it_says(
    address: str, tmp_path: Path
) -> None:
    """Valid ones and broken ones, the same in each run: no 5xx, no other status, type or body."""
    (tmp_path / "schemathesis.toml").write_text(_KNOWN)
    checks = (
        *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
        *("response_schema_conformance", "negative_data_rejection", "unsupported_method"),
        *("allow_header_conformance", "missing_required_header"),
    )
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{address}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-examples", "10", "--generation-deterministic"),
        *("--request-timeout", str(patient(20)), "--continue-on-failure", "--no-color"),
        *("--checks", ",".join(checks), "--suppress-health-check", "all"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(patient(240)):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
