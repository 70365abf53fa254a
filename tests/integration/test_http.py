"""The HTTP door of a real node: what curl and browsers get, and what clients that abuse it do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.nodes import builder, reached
from support.patience import patient
from support.raw_http import Answer, Caller
from support.traces import assert_nothing_left

from plexspaces_node import NodeBuilder, NodeClient
from plexspaces_node.errors import Unavailable
from plexspaces_node.info import LogLine
from plexspaces_node.model import MIB, ApplicationState
from plexspaces_node.node.logs import MAX_FOLLOWERS
from plexspaces_node.node.node import Node
from plexspaces_node.vm.process.driver import ProcessDriver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_POST = b"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.with_setting("limits.message_bytes", 4 * MIB).build() as node:
        yield node
    assert_nothing_left(data_dir)


async def in_flight(client: NodeClient, count: int) -> None:
    """Wait until so many messages are in flight."""
    async with asyncio.timeout(30):
        while (await client.inspect("echo")).counters.in_flight != count:
            await asyncio.sleep(0)


@pytest.mark.usefixtures("echo")
class TestMessages:
    @pytest.mark.parametrize(
        ("payload", "kind"),
        [
            (b'{"a": 1}', "application/json"),
            (b"[1, 2]", "application/json"),
            (b"42.0", "application/json"),
            (b"{not json", "text/plain; charset=utf-8"),
            ("grüße".encode(), "text/plain; charset=utf-8"),
            (b"<b>page</b>", "text/plain; charset=utf-8"),
            (b"\xff\xfe", "application/octet-stream"),
            (b"", "application/octet-stream"),
            (b"[" * 60_000, "text/plain; charset=utf-8"),
        ],
    )
    async def test_reply_has_a_fitting_content_type(
        self, http: Caller, payload: bytes, kind: str
    ) -> None:
        """The reply's bytes are the answer; their kind is said, and a browser guesses nothing."""
        answer = await http.send("POST", "/apps/echo/e", payload)
        assert (answer.status, answer.body) == (200, payload)
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_server_timing_tells_where_the_time_went(self, http: Caller) -> None:
        """Compute, waits, queue and coordination, in milliseconds, as browsers show them."""
        answer = await http.send("POST", "/apps/echo/e", b"x")
        said = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
        assert [name for name, _ in said] == ["compute", "wait", "queue", "coordination"]
        assert all(float(duration) >= 0 for _, duration in said)

    async def test_host_names_an_application(self, http: Caller) -> None:
        """NAME.localhost is the application, whatever the case and the port."""
        for host in ("echo.localhost", "ECHO.localhost:8080"):
            answer = await http.send("POST", "/e", b"x", host=host)
            assert (answer.status, answer.body) == (200, b"x")

    async def test_long_payload_goes_in_and_out(self, http: Caller) -> None:
        """Up to the limit a message is passed on whole."""
        payload = bytes(range(256)) * (3 * MIB // 256)
        answer = await http.send("POST", "/apps/echo/e", payload)
        assert answer.body == payload

    async def test_message_over_the_limit_is_refused_before_it_is_read(self, http: Caller) -> None:
        """The status says so, with the limit, and the connection ends."""
        http.writer.write(
            b"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        answer = await http.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert "4194304" in answer.json["detail"]
        assert await http.is_closed()

    async def test_chunked_message_is_joined(self, http: Caller) -> None:
        """A body whose length nobody said is a message as any other, within the limit."""
        head = (
            b"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        http.writer.write(head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert (await http.answer()).body == b"abcdefg"
        too_long = b"100000\r\n" + b"x" * MIB + b"\r\n"
        http.writer.write(head + too_long * 5)
        assert (await http.answer()).status == 413

    async def test_pipelined_requests_are_answered_in_order(self, http: Caller) -> None:
        """All at once, more than may wait, and each gets its own reply."""
        requests = [
            b"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n%03d"
            % number
            for number in range(200)
        ]
        http.writer.write(b"".join(requests))
        answers = [(await http.answer()).body for _ in requests]
        assert answers == [b"%03d" % number for number in range(200)]

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            ("/apps/nobody/e", 404, "not_found"),
            ("/apps/echo/x", 422, None),
            ("/apps/%2e%2e/e", 404, "not_found"),
            ("/apps//e", 404, "not_found"),
            ("/apps/ech%6f/e", 404, "not_found"),
        ],
    )
    async def test_errors_are_problems(
        self, http: Caller, path: str, status: int, code: str | None
    ) -> None:
        """RFC 9457, with the platform's code and a hint, and the connection goes on."""
        answer = await http.send("POST", path, b"x")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status, answer.json["status"]) == (status, status)
        assert code is None or answer.json["code"] == code
        assert (await http.send("POST", "/apps/echo/e", b"y")).body == b"y"

    async def test_other_methods_are_refused(self, http: Caller) -> None:
        """A link on a page, or a browser that fetches ahead, changes nothing."""
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            answer = await http.send(method, "/apps/echo/e")
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        # Who mistypes the name of an HTTP component is not told to use another method.
        answer = await http.send("GET", "/apps/nobody/")
        assert (answer.status, "nobody" in answer.json["detail"]) == (404, True)

    async def test_stopped_application_is_a_conflict(
        self, http: Caller, client: NodeClient
    ) -> None:
        """With the command that helps."""
        await client.stop("echo")
        answer = await http.send("POST", "/apps/echo/e", b"x")
        assert (answer.status, answer.json["hint"]) == (409, "POST /v1/applications/echo/start")

    async def test_client_that_leaves_takes_its_message_with_it(
        self, http: Caller, open_: Any, client: NodeClient
    ) -> None:
        """Nothing of it stays in the node: the next message is answered, nothing is in flight."""
        other = await open_()
        other.writer.write(
            b"POST /apps/echo/l HTTP/1.1\r\nhost: localhost\r\nprefer: wait=2\r\n"
            b"content-length: 0\r\n\r\n"
        )
        await in_flight(client, 1)
        other.writer.transport.abort()
        # The actor has begun it, and ends it at its deadline.
        await in_flight(client, 0)
        assert (await http.send("POST", "/apps/echo/e", b"x")).body == b"x"


class TestControl:
    async def test_application_lives_by_curl_alone(self, http: Caller, probe_wasm: Path) -> None:
        """Upload, deploy, list, inspect, message, stop, start, log, remove."""
        wasm = probe_wasm.read_bytes()
        uploaded = await http.send("PUT", "/v1/artifacts/app.wasm", wasm)
        digest = hashlib.sha256(wasm).hexdigest()
        assert (uploaded.status, uploaded.json["digest"]) == (201, digest)
        assert (await http.send("GET", f"/v1/artifacts/{digest}")).json == {"found": True}
        request = json.dumps({"name": "one", "digest": digest}).encode()
        deployed = await http.send("POST", "/v1/applications", request)
        assert (deployed.status, deployed.json["state"]) == (201, "Running")
        assert isinstance(deployed.json["created_unix_ns"], int)
        listed = (await http.send("GET", "/v1/applications")).json
        assert [one["name"] for one in listed["applications"]] == ["one"]
        call = json.dumps({"type": "e", "payload": "eHl6"}).encode()
        called = await http.send("POST", "/v1/applications/one/invoke", call)
        assert (called.json["payload"], called.json["timings"]["wait_ns"] >= 0) == ("eHl6", True)
        stopped = await http.send("POST", "/v1/applications/one/stop?force")
        assert stopped.json["state"] == "Stopped"
        assert (await http.send("POST", "/v1/applications/one/start")).json["state"] == "Running"
        assert (await http.send("GET", "/v1/applications/one/logs?tail=1")).status == 200
        assert len((await http.send("GET", "/v1/vms")).json["vms"]) == 1
        assert (await http.send("GET", "/v1/vms/one")).json["vm"]["application"] == "one"
        assert (await http.send("GET", "/v1/vms/one/console")).status == 200
        assert (await http.send("DELETE", "/v1/applications/one")).status == 204
        assert (await http.send("GET", "/v1/applications/one")).status == 404

    async def test_upload_by_digest_that_is_another_is_refused(
        self, http: Caller, probe_wasm: Path
    ) -> None:
        """The node checks what it stores."""
        answer = await http.send("PUT", f"/v1/artifacts/{'0' * 64}", probe_wasm.read_bytes())
        assert answer.status == 400
        assert (await http.send("GET", f"/v1/artifacts/{'0' * 64}")).json == {"found": False}

    @pytest.mark.parametrize("name", ["app.wasm", "0" * 64])
    async def test_upload_that_is_refused_at_once_hears_why(self, http: Caller, name: str) -> None:
        """Though it sends on: the rest is dropped, and the answer is not lost by a reset."""
        http.writer.write(
            f"PUT /v1/artifacts/{name} HTTP/1.1\r\nhost: localhost\r\n"
            "content-length: 999999999\r\n\r\n".encode()
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                http.writer.write(bytes(MIB))
                await http.writer.drain()
        answer = await http.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")

    async def test_deploy_streams_its_phases_when_asked(
        self, http: Caller, probe_wasm: Path
    ) -> None:
        """One JSON object a line, the application last."""
        uploaded = await http.send("PUT", "/v1/artifacts/app.wasm", probe_wasm.read_bytes())
        request = json.dumps({"name": "one", "digest": uploaded.json["digest"]}).encode()
        answer = await http.send("POST", "/v1/applications", request, accept="application/x-ndjson")
        events = [json.loads(line) for line in answer.body.splitlines()]
        assert [event.get("phase") for event in events] == ["compile", "vm", "load", None]
        assert events[-1]["application"]["name"] == "one"

    async def test_log_is_followed_until_the_client_leaves(
        self, http: Caller, open_: Any, client: NodeClient, probe_wasm: Path
    ) -> None:
        """Lines come as they are written, and nobody follows after the client is gone."""
        await client.deploy("one", probe_wasm)
        http.writer.write(
            b"GET /v1/applications/one/logs?follow=true HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )
        async with asyncio.timeout(30):
            await http.reader.readuntil(b"\r\n\r\n")
            other = await open_()
            assert (await other.send("POST", "/apps/one/o", b"a line")).status == 200
            assert b"a line" in await http.reader.readuntil(b"}\n")
        http.writer.close()
        await client.undeploy("one")

    async def test_log_when_for_a_trace_then_only_its_lines(
        self, http: Caller, node: Node, client: NodeClient, probe_wasm: Path
    ) -> None:
        """By either door; the ids are in the lines. What is no trace id is refused."""
        await client.deploy("one", probe_wasm)
        await client.invoke("one", b"of none", type="o")
        journal = node.applications.log_of("one")
        journal.append(LogLine(1, "log", "info", "of it", TRACE_ID))
        journal.append(LogLine(2, "log", "info", "of another", "a" * 32))
        [line] = [line async for line in client.logs("one", trace_id=TRACE_ID)]
        assert line == LogLine(1, "log", "info", "of it", TRACE_ID)
        path = "/v1/applications/one/logs?trace_id="
        answer = await http.send("GET", path + TRACE_ID)
        assert (answer.json["message"], answer.json["trace_id"]) == ("of it", TRACE_ID)
        lines = [line.trace_id async for line in client.logs("one")]
        assert lines[1:] == [TRACE_ID, "a" * 32]
        refused = await http.send("GET", path + "x")
        assert (refused.status, refused.json["code"]) == (400, "invalid_argument")

    async def test_log_when_asked_for_as_events_then_each_line_is_one(
        self, http: Caller, open_: Any, client: NodeClient, probe_wasm: Path
    ) -> None:
        """As a browser reads them; not kept by anybody. An error at once is a problem as ever."""
        wanted: Any = {"accept": "text/event-stream"}
        missing = await http.send("GET", "/v1/applications/one/logs", **wanted)
        assert (missing.status, missing.json["code"]) == (404, "not_found")
        await client.deploy("one", probe_wasm)
        for line in (b"a\n\ndata: b", b"<b>c"):
            assert (await http.send("POST", "/apps/one/o", line)).status == 200
        follower = await open_()
        follower.writer.write(
            b"GET /v1/applications/one/logs?follow HTTP/1.1\r\nhost: localhost\r\n"
            b"accept: text/event-stream\r\n\r\n"
        )
        async with asyncio.timeout(patient(30)):
            head = await follower.reader.readuntil(b"\r\n\r\n")
            assert b"content-type: text/event-stream\r\n" in head
            assert b"cache-control: no-store\r\n" in head
            said = b""
            while b"<b>c" not in said:
                said += await follower.reader.readuntil(b"}\n\n\r\n")
        events = [part[part.index(b"data: ") + 6 :] for part in said.split(b"\n\n\r\n")[:-1]]
        messages = [json.loads(event)["message"] for event in events]
        assert messages == ["a", "", "data: b", "<b>c"] or messages == ["a\n\ndata: b", "<b>c"]
        await follower.leave()
        whole = await http.send("GET", "/v1/applications/one/logs?tail=1", **wanted)
        assert whole.body.startswith(b"data: {")
        assert whole.body.endswith(b"}\n\n")
        await client.undeploy("one")

    async def test_follower_that_leaves_makes_room(
        self, open_: Any, client: NodeClient, probe_wasm: Path
    ) -> None:
        """A client that only closes its side has left too; one too many is told before the head."""
        await client.deploy("one", probe_wasm)
        request = b"GET /v1/applications/one/logs?follow HTTP/1.1\r\nhost: localhost\r\n\r\n"
        followers = [await open_() for _ in range(MAX_FOLLOWERS + 1)]
        for caller in followers[:-1]:
            caller.writer.write(request)
            assert b" 200 " in await caller.reader.readuntil(b"\r\n\r\n")
        followers[-1].writer.write(request)
        answer = await followers[-1].answer()
        assert (answer.status, answer.json["code"]) == (429, "resource_exhausted")
        await followers[0].leave()
        async with asyncio.timeout(30):
            while b" 200 " not in await self._head(followers[-1], request):
                pass
        for caller in followers:
            caller.writer.transport.abort()
        await client.undeploy("one")

    async def _head(self, caller: Caller, request: bytes) -> bytes:
        caller.writer.write(request)
        head = await caller.reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"content-length: (\d+)", head):
            await caller.reader.readexactly(int(length[1]))
        return head

    async def test_deploy_that_fails_at_once_is_a_problem(self, http: Caller) -> None:
        """Its status says so, though a stream was asked for."""
        wanted = {"accept": "application/x-ndjson"}
        missing = json.dumps({"name": "one", "digest": "0" * 64}).encode()
        answer = await http.send("POST", "/v1/applications", missing, **wanted)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        uploaded = await http.send("PUT", "/v1/artifacts/app.wasm", b"\0asm no code")
        broken = json.dumps({"name": "one", "digest": uploaded.json["digest"]}).encode()
        answer = await http.send("POST", "/v1/applications", broken, **wanted)
        assert (answer.status, answer.json["code"]) == (400, "invalid_argument")
        assert (await http.send("GET", "/v1/node")).status == 200

    async def test_deploy_is_undone_when_its_client_leaves(
        self, http: Caller, open_: Any, probe_wasm: Path
    ) -> None:
        """It closes its side in the middle; the name is free again."""
        uploaded = await http.send("PUT", "/v1/artifacts/app.wasm", probe_wasm.read_bytes())
        request = json.dumps({"name": "one", "digest": uploaded.json["digest"]}).encode()
        other = await open_()
        other.writer.write(
            b"POST /v1/applications HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
            b"accept: application/x-ndjson\r\n\r\n%b" % (len(request), request)
        )
        await other.reader.readuntil(b"\r\n\r\n")
        await other.leave()
        async with asyncio.timeout(30):
            while (await http.send("GET", "/v1/applications/one")).status != 404:
                pass

    @pytest.mark.parametrize("name", ["0" * 63, "A" * 64])
    async def test_mistyped_digest_is_refused(self, http: Caller, name: str) -> None:
        """And not taken for a file's name, for then nothing would be checked."""
        answer = await http.send("PUT", f"/v1/artifacts/{name}", b"\0asm")
        assert (answer.status, "digest" in answer.json["detail"]) == (400, True)

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "said"),
        [
            ("POST", "/v1/applications", b"", 400, "empty"),
            ("POST", "/v1/applications", b"{", 400, "not JSON"),
            ("POST", "/v1/applications", b"[]", 400, "`object`"),
            ("POST", "/v1/applications", b'{"name": ' + b"[" * 100_000, 400, "`array`"),
            ("POST", "/v1/applications/nobody/start", b'{"nme": 1}', 400, "nme"),
            ("POST", "/v1/applications/nobody/stop", b'{"force": 1}', 400, "force"),
            ("POST", "/v1/applications/nobody/stop", b'{"force": true}', 404, "nobody"),
            ("POST", "/v1/applications/nobody/invoke", b'{"payload": "eHl"}', 400, "base64"),
            ("DELETE", "/v1/applications/nobody", b'{"force": true}', 400, "no body"),
            ("GET", "/v1/applications/nobody/logs?tail=-1", b"", 400, "tail"),
            ("POST", "/v1/applications", b'{"nme": 1}', 400, "nme"),
            ("GET", "/v1/applications?all=1", b"", 400, "unknown parameter 'all'"),
            ("PATCH", "/v1/applications", b"", 405, "PATCH"),
            ("GET", "/v1/nothing", b"", 404, "nothing"),
            ("GET", "/v1/applications/nobody/logs", b"", 404, "nobody"),
            ("GET", "/v1/applications/nobody/logs?follow", b"", 404, "nobody"),
            ("PUT", "/v1/artifacts/x", b"no wasm", 400, "WebAssembly"),
        ],
    )
    async def test_bad_requests_are_problems(
        self, http: Caller, method: str, path: str, body: bytes, status: int, said: str
    ) -> None:
        """The value that was wrong is named."""
        answer = await http.send(method, path, body)
        assert answer.status == status
        assert said in answer.json["detail"]
        # So that the prompt of a shell begins a line.
        assert answer.body.endswith(b"}\n")

    @pytest.mark.parametrize(
        ("method", "path", "status", "said"),
        [
            ("PUT", "/v1/artifacts", 404, "/v1/artifacts/ (with the slash"),
            ("PUT", "/v1/artifact", 404, "/v1/artifacts/ (with the slash"),
            ("POST", "/v1/applicationes", 404, "/openapi.json"),
            ("PUT", "/v1/applications", 405, "not allowed"),
            ("POST", "/v1/applications", 413, "limit is 1048576"),
            ("POST", "/apps/nobody/upload", 404, "'nobody'"),
        ],
    )
    async def test_path_is_told_before_the_length(
        self, http: Caller, method: str, path: str, status: int, said: str
    ) -> None:
        """As with an upload whose path has no slash at its end: no limit is in the way."""
        answer = await http.send(method, path, b"\0asm" + bytes(5 * MIB))
        assert answer.status == status
        assert said in answer.json["detail"] + answer.json.get("hint", "")

    async def test_node_and_document_are_there(self, http: Caller, node: Node) -> None:
        """What the node is, the OpenAPI document, and a page of it that cannot be framed."""
        assert (await http.send("GET", "/v1/node")).json["node_id"] == node.id
        document = (await http.send("GET", "/openapi.json")).json
        assert document["openapi"] == "3.1.0"
        page = await http.send("GET", "/api")
        assert page.headers["x-frame-options"] == "DENY"
        assert b"/v1/applications/{name}" in page.body

    async def test_dashboard_when_asked_for_then_only_at_hosts_of_the_node(
        self, http: Caller
    ) -> None:
        """An application's host is the application's, also where there is none of its name."""
        for path in ("/", "/ui/main.js"):
            assert (await http.send("GET", path)).status == 200
            assert (await http.send("GET", path, host="nobody.localhost")).status == 404


async def test_shutdown_answers_what_runs_and_closes_the_rest(
    data_dir: Path, probe_wasm: Path
) -> None:
    """A message in flight is answered, an idle connection is closed, nothing is left."""
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await reached(client, "one", ApplicationState.RUNNING)
        idle = await Caller.connect(node.http_address)
        assert (await idle.send("POST", "/apps/one/e", b"x")).body == b"x"
    assert await idle.is_closed()
    idle.writer.close()
    assert_nothing_left(data_dir)


@pytest.mark.parametrize("end", [Node.drain, Node.abort])
async def test_node_that_has_ended_answers_nobody(data_dir: Path, end: Any) -> None:
    """Its port is closed, and so are its connections, however it ends."""
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.build() as node:
        caller = await Caller.connect(node.http_address)
        assert (await caller.send("GET", "/v1/node")).status == 200
        await end(node)
        assert await caller.is_closed()
        caller.writer.close()
        with pytest.raises(ConnectionRefusedError):
            await Caller.connect(node.http_address)


class Starting(ProcessDriver):
    """Starts machines as usual, and asks the node over HTTP while it starts one."""

    address = ""
    asking: asyncio.Task[Answer] | None = None
    was_answered: bool | None = None

    async def start(self, *args: Any, **named: Any) -> Any:
        if not self.address:
            return await super().start(*args, **named)
        self.caller = await Caller.connect(self.address)
        self.asking = asyncio.create_task(self.caller.send("GET", "/v1/applications"))
        machine = await super().start(*args, **named)
        self.was_answered = self.asking.done()
        return machine


async def test_http_waits_until_applications_are_recovered(
    data_dir: Path, probe_wasm: Path
) -> None:
    """What would be deployed before that could be taken for a leftover, and started twice."""
    driver = Starting()
    build = builder(data_dir).with_driver(driver).with_setting("http.address", "127.0.0.1:0")
    async with build.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        driver.address = node.http_address
    build = build.with_setting("http.address", driver.address)
    async with build.build() as node:
        async with asyncio.timeout(30):
            while driver.asking is None:
                await asyncio.sleep(0)
            answer = await driver.asking
        assert (driver.was_answered, answer.status) == (False, 200)
    driver.caller.writer.close()


async def test_address_of_a_setting_must_be_free(data_dir: Path) -> None:
    """Whoever named it wants it: the node does not start, and says how to choose another."""
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as first:
        taken = first.http_address
        second = builder(data_dir.with_name("other")).with_setting("http.address", taken)
        with pytest.raises(Unavailable, match="port is in use") as caught:
            async with second.build():
                pass
        assert "[http] address" in str(caught.value.hint)


async def test_second_node_goes_without_when_the_default_port_is_taken(data_dir: Path) -> None:
    """It runs, and knows why it has no HTTP."""
    build = NodeBuilder("second").with_address("127.0.0.1:0").with_isolation("process")
    with socket.socket() as holder:
        # Else somebody has it already, which is as good.
        with contextlib.suppress(OSError):
            holder.bind(("127.0.0.1", 8080))
        async with build.with_data_dir(data_dir).build() as node:
            why = "cannot listen on 127.0.0.1:8080: the port is in use"
            assert (node.http_address, node.http_fault) == ("", why)
