"""Firecracker's API: what is asked fits its description, and every kind of answer is understood."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import fake_firecracker

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.firecracker import api as api
from plexspaces_node.vm.firecracker.api import Action, ApiRequest, FirecrackerApi

REQUESTS = [
    api.instance_info(),
    api.machine_config(VmConfig(vcpus=3, memory_mib=200)),
    api.boot_source(kernel="/vmlinux", initrd="/initrd", arguments="quiet"),
    api.drive("root", "/root"),
    api.change_drive("artifact", "/drive.erofs"),
    api.vsock("/v.sock"),
    api.act(Action.START),
    api.act(Action.CTRL_ALT_DEL),
]
OK = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"


class TestRequests:
    @pytest.mark.parametrize("request_", REQUESTS, ids=str)
    def test_request_fits_our_own_table_of_the_api(self, request_: ApiRequest) -> None:
        """Every field is known, of its type, and none that is needed is missing."""
        if request_.body is None:
            assert (request_.method, request_.path) == ("GET", "/")
            return
        known = fake_firecracker.FIELDS[f"{request_.method} /{request_.path.split('/')[1]}"]
        assert {name: type(value) for name, value in request_.body.items()} == {
            name: known[name][0] for name in request_.body
        }
        assert {name for name, (_, needed) in known.items() if needed} <= set(request_.body)

    @pytest.mark.parametrize("request_", REQUESTS, ids=str)
    def test_request_fits_the_makers_description(
        self, request_: ApiRequest, makers_description: dict[str, Any]
    ) -> None:
        """Path, method and body are as Firecracker's own API description says."""
        method = makers_description["paths"][_template(request_.path)][request_.method.lower()]
        bodies = [p for p in method.get("parameters", []) if p["in"] == "body"]
        if request_.body is None:
            assert bodies == []
        else:
            _check(request_.body, bodies[0]["schema"], makers_description["definitions"])

    def test_no_drive_can_be_written_or_is_a_root_device(self) -> None:
        """All guests share one root, and an initial RAM disk excludes a root device."""
        body = api.drive("root", "/root").body
        assert body is not None
        assert (body["is_read_only"], body["is_root_device"]) == (True, False)
        assert set(body["rate_limiter"]) == {"bandwidth", "ops"}


class TestAnswers:
    async def test_call_when_there_is_no_content_returns_nothing(self, short_dir: Path) -> None:
        """Most answers are a 204."""
        async with _served(short_dir, OK) as client:
            assert await client.call(api.vsock("v"), 5) == {}

    async def test_call_returns_the_object_and_the_connection_serves_again(
        self, short_dir: Path
    ) -> None:
        """A body is read to its length and no further."""
        text = b'{"id": "vm-1"}'
        answer = b"HTTP/1.1 200 \r\ncontent-LENGTH: %d\r\n\r\n%s" % (len(text), text)
        async with _served(short_dir, answer) as client:
            for _ in range(2):
                assert await client.call(api.instance_info(), 5) == {"id": "vm-1"}

    async def test_call_when_refused_gives_the_reason_and_the_request(
        self, short_dir: Path
    ) -> None:
        """Firecracker's own words reach the user."""
        text = b'{"fault_message": "no such kernel"}'
        answer = b"HTTP/1.1 400 \r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        async with _served(short_dir, answer) as client:
            with pytest.raises(Unavailable, match="refused PUT /vsock: no such kernel"):
                await client.call(api.vsock("v"), 5)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: 999999999\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{}",
            b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n}{}",
            b"HTTP/1.1 200 " + b"x" * 100_000,
        ],
    )
    async def test_call_when_the_answer_is_none_says_so(
        self, short_dir: Path, answer: bytes
    ) -> None:
        """Whatever comes instead of an answer is one error, and nothing of it is kept."""
        async with _served(short_dir, answer, hang_up=True) as client:
            with pytest.raises(Unavailable, match="gave no valid answer to GET /"):
                await client.call(api.instance_info(), 5)

    async def test_call_when_there_is_no_answer_ends_in_time(self, short_dir: Path) -> None:
        """A Firecracker that hangs does not make the node hang."""
        async with _served(short_dir, b"HTTP/1.1 ") as client:
            with pytest.raises(DeadlineExceeded, match=r"PUT /vsock within 0\.05 s"):
                await client.call(api.vsock("v"), 0.05)

    async def test_connect_when_another_process_listens_is_refused(self, short_dir: Path) -> None:
        """A socket that somebody put in the way is not talked to."""
        async with _listening(short_dir, OK) as path:
            with pytest.raises(Unavailable, match=f"served by process {os.getpid()}"):
                async with FirecrackerApi(path, pid=1):
                    pass

    async def test_connect_when_nobody_listens_is_an_error_of_the_system(
        self, short_dir: Path
    ) -> None:
        """The caller tells "not yet" from "never" by its class."""
        with pytest.raises(FileNotFoundError):
            async with FirecrackerApi(short_dir / "none", pid=1):
                pass

    async def test_request_is_sent_as_http_with_a_length(self, short_dir: Path) -> None:
        """A body is JSON and its length is said; a GET has none."""
        seen: list[bytes] = []
        async with _served(short_dir, OK, seen=seen) as client:
            await client.call(api.vsock("/v.sock"), 5)
            await client.call(api.instance_info(), 5)
        head, _, body = seen[0].partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"PUT /vsock HTTP/1.1"
        assert f"Content-Length: {len(body)}".encode() in lines
        assert json.loads(body) == {"guest_cid": 3, "uds_path": "/v.sock"}
        assert seen[1] == b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def makers_description(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The description that `--firecracker-api` names."""
    path = request.config.getoption("--firecracker-api")
    if path is None:
        pytest.skip("needs the makers' file: name it with --firecracker-api=PATH")
    yaml = pytest.importorskip("yaml")
    description: dict[str, Any] = yaml.safe_load(Path(path).read_text())
    return description


def _template(path: str) -> str:
    return "/drives/{drive_id}" if path.startswith("/drives/") else path


def _check(value: object, schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    kinds: dict[str, type] = {"object": dict, "string": str, "integer": int, "boolean": bool}
    assert type(value) is kinds[schema["type"]]
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value)
        for name, part in value.items():
            _check(part, schema["properties"][name], definitions)
    if "enum" in schema:
        assert value in schema["enum"]
    if isinstance(value, int):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value)


@asynccontextmanager
async def _served(
    directory: Path, answer: bytes, *, hang_up: bool = False, seen: list[bytes] | None = None
) -> AsyncIterator[FirecrackerApi]:
    async with (
        _listening(directory, answer, hang_up=hang_up, seen=seen) as path,
        FirecrackerApi(path, pid=os.getpid()) as client,
    ):
        yield client


@asynccontextmanager
async def _listening(
    directory: Path, answer: bytes, *, hang_up: bool = False, seen: list[bytes] | None = None
) -> AsyncIterator[Path]:
    ended: list[asyncio.Task[None] | None] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        ended.append(asyncio.current_task())
        while data := await reader.read(65536):
            if seen is not None:
                seen.append(data)
            writer.write(answer)
            if hang_up:
                break
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    accept: Callable[[StreamReader, StreamWriter], Coroutine[Any, Any, None]] = serve
    server = await asyncio.start_unix_server(accept, directory / "api.sock")
    async with server:
        yield directory / "api.sock"
        await asyncio.gather(*(task for task in ended if task), return_exceptions=True)
