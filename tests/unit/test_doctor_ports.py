"""The doctor's checks of ports: free, a node's, somebody else's, and connections for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import ended

from plexspaces_node.api.generated.application_pb2 import InspectNodeRequest, InspectNodeResponse
from plexspaces_node.api.status import to_grpc
from plexspaces_node.certificates import Pair, make_authority, make_node_certificate
from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.doctor.ports import (
    check_address,
    check_descriptors,
    check_http_address,
    check_tls,
)
from plexspaces_node.errors import Internal, PermissionDenied, PlexSpacesError, Unauthenticated
from plexspaces_node.node.api.descriptors import reserve
from plexspaces_node.node.http.problem import of_error
from plexspaces_node.private_file import replace


@pytest.fixture
def held_port() -> Iterator[int]:
    """Hold a port that is bound and never answered."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def configured(*, http: str | None = None, **flags: object) -> Config:
    """Load a configuration with only these settings of ``[node]``, and this HTTP address."""
    keyed = {f"node.{key}": value for key, value in flags.items()}
    if http is not None:
        keyed["http.address"] = http
    return ConfigBootstrap.load(flags=keyed, environ={"HOME": "/nonexistent"})


@asynccontextmanager
async def fake_node(refusal: PlexSpacesError | None = None) -> AsyncIterator[int]:
    """Serve the one call by which a node says who it is, or refuse it as a node does."""

    async def inspect(
        request: InspectNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> InspectNodeResponse:
        if refusal is not None:
            await context.abort(*to_grpc(refusal))
        return InspectNodeResponse(node_id="n1", version="0.1.0")

    handler = grpc.unary_unary_rpc_method_handler(
        inspect,
        request_deserializer=InspectNodeRequest.FromString,
        response_serializer=InspectNodeResponse.SerializeToString,
    )
    service = "plexspaces.node.v1.ApplicationService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"InspectNode": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def other_program() -> AsyncIterator[int]:
    """Serve a protocol that is not gRPC: every connection is answered with a line and closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield int(server.sockets[0].getsockname()[1])


class TestAddress:
    async def test_check_address_when_the_port_is_free_then_it_is_ok_and_stays_free(self) -> None:
        """The port can be bound, also right after the check."""
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            port = finder.getsockname()[1]
        config = configured(address=f"127.0.0.1:{port}")
        for _ in range(2):
            (finding,) = await check_address(config)
            assert (finding.ok, finding.detail) == (True, f"127.0.0.1:{port} is free")

    @pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
    async def test_check_address_when_any_port_will_do_then_it_is_ok(self, address: str) -> None:
        """Port 0 asks for a free one, on every kind of loopback."""
        (finding,) = await check_address(configured(address=address))
        assert finding.ok is True

    async def test_check_address_when_a_node_runs_there_then_it_is_ok_and_named(self) -> None:
        """A node that already runs is what the user wants, not a fault."""
        async with fake_node() as port:
            (finding,) = await check_address(configured(address=f"127.0.0.1:{port}"))
        assert finding.ok is True
        assert finding.detail == (f"127.0.0.1:{port}: PlexSpaces node n1 (0.1.0) is running here")

    async def test_check_address_when_a_node_with_tokens_runs_there_then_it_is_ok(self) -> None:
        """It does not say who it is, but that it is one."""
        for refusal in (Unauthenticated("this node needs a token"), PermissionDenied("no")):
            async with fake_node(refusal) as port:
                (finding,) = await check_address(configured(address=f"127.0.0.1:{port}"))
            assert finding.ok is True
            assert "a PlexSpaces node that needs a token is running here" in finding.detail
        async with fake_node(Internal("no token, another fault")) as port:
            (finding,) = await check_address(configured(address=f"127.0.0.1:{port}"))
        assert finding.ok is False

    async def test_check_address_when_another_program_answers_then_it_is_a_fault(self) -> None:
        """Something that is no node in the way of the node is found by talking to it."""
        async with other_program() as port:
            (finding,) = await check_address(configured(address=f"127.0.0.1:{port}"))
        assert finding.ok is False
        assert "another program" in finding.detail
        assert f"sport = :{port}" in str(finding.hint)

    async def test_check_address_when_the_port_is_bound_and_silent_then_it_is_a_fault(
        self, held_port: int
    ) -> None:
        """A port can be taken without anybody answering."""
        (finding,) = await check_address(configured(address=f"127.0.0.1:{held_port}"))
        assert finding.ok is False
        assert "in use" in finding.detail

    async def test_check_address_when_others_could_reach_it_then_the_refusal_is_shown(
        self,
    ) -> None:
        """What `start-node` would refuse, the doctor says first, and does not bind."""
        (finding,) = await check_address(configured(address="0.0.0.0:1"))
        assert finding.ok is False
        assert "can be reached from other hosts" in finding.detail
        assert "allow_remote" in str(finding.hint)

    async def test_check_address_when_it_is_not_of_this_machine_then_it_is_a_fault(self) -> None:
        """An address that no interface has cannot be bound (TEST-NET-1 is nobody's)."""
        config = configured(address="192.0.2.1:9000", allow_remote=True)
        (finding,) = await check_address(config)
        assert finding.ok is False


def http_node(answer: bytes) -> Callable[[], Awaitable[asyncio.Server]]:
    """Start a program that answers every request with these bytes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Of a client that only looks whether somebody listens there is no request.
        if await reader.readline():
            writer.write(answer)
        writer.close()

    return lambda: asyncio.start_server(respond, "127.0.0.1", 0)


class TestHttp:
    async def test_free_port_is_ok(self) -> None:
        """As the node's own address."""
        (finding,) = await check_http_address(configured(http="127.0.0.1:0"))
        assert (finding.name, finding.ok, finding.detail) == ("HTTP", True, "127.0.0.1:0 is free")

    async def test_http_that_is_off_is_no_fault(self) -> None:
        """And says by what it is."""
        (finding,) = await check_http_address(configured(http="off"))
        assert (finding.ok, "[http] address" in finding.detail) == (None, True)

    @pytest.mark.parametrize(
        ("body", "ok", "said"),
        [
            (b'{"node_id": "n1", "version": "0.1.0"}', True, "PlexSpaces node n1 (0.1.0) is"),
            (b'{"node_id": 7}', False, "another program"),
            (b"[]", False, "another program"),
            (b"<html>", False, "another program"),
        ],
    )
    async def test_who_uses_the_port_is_told(self, body: bytes, ok: bool, said: str) -> None:
        """A node says who it is; what else answers is another program."""
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        async with await http_node(answer)() as server:
            port = server.sockets[0].getsockname()[1]
            (finding,) = await check_http_address(configured(http=f"127.0.0.1:{port}"))
        assert (finding.ok, said in finding.detail) == (ok, True)
        assert ok or f"sport = :{port}" in str(finding.hint)

    async def test_node_with_tokens_is_told(self) -> None:
        """By how it asks for one."""
        response = of_error(Unauthenticated("this node needs a token"))
        head = b"".join(b"%b: %b\r\n" % header for header in response.headers)
        async with await http_node(b"HTTP/1.1 401 \r\n" + head + b"\r\n")() as server:
            port = server.sockets[0].getsockname()[1]
            (finding,) = await check_http_address(configured(http=f"127.0.0.1:{port}"))
        assert (finding.ok, "that needs a token is running" in finding.detail) == (True, True)

    async def test_program_that_speaks_no_http_is_another(self) -> None:
        """Its bytes are not taken for an answer."""
        async with other_program() as port:
            (finding,) = await check_http_address(configured(http=f"127.0.0.1:{port}"))
        assert (finding.ok, "another program" in finding.detail) == (False, True)

    async def test_node_runs_without_the_default_port(self) -> None:
        """So if that is taken it is a remark, whoever has it here."""
        (finding,) = await check_http_address(configured())
        assert finding.ok is not False
        assert "127.0.0.1:8080" in finding.detail

    async def test_refused_address_is_told_once(self) -> None:
        """With the node's own."""
        config = configured(http="0.0.0.0:1")
        assert await check_http_address(config) == []
        (finding,) = await check_address(config)
        assert "http.address" in finding.detail


class TestDescriptors:
    def test_check_descriptors_when_there_are_enough_then_it_says_for_what(self) -> None:
        """The limit is shown with what becomes of it."""
        (finding,) = check_descriptors(configured(), most=20_000)
        assert finding.ok is True
        each = (20_000 - reserve(100)) // 2
        said = f"20000: {each} for connections of each port, the rest for 100 applications"
        assert finding.detail == said

    def test_check_descriptors_when_there_are_few_then_the_hint_says_how_many_are_wanted(
        self,
    ) -> None:
        """A node runs with few, so it is a remark."""
        (finding,) = check_descriptors(configured(), most=512)
        assert finding.ok is None
        assert f"may need {reserve(100)}" in finding.detail
        assert f"LimitNOFILE={2 * reserve(100)}" in str(finding.hint)

    def test_two_ports_share_them(self) -> None:
        """As in the node."""
        (finding,) = check_descriptors(configured(), most=4000)
        (alone,) = check_descriptors(configured(http="off"), most=4000)
        left = 4000 - reserve(100)
        assert f"4000: {left // 2} for connections of each port" in finding.detail
        assert f"4000: {left} for connections, the rest" in alone.detail


class TestTls:
    @staticmethod
    def configured(directory: Path, pair: Pair, **flags: str) -> Config:
        """A configuration with this certificate."""
        for name, content in (("node.pem", pair.certificate), ("key.pem", pair.key)):
            replace(directory / name, content)
        keyed = {f"tls.{key}": value for key, value in flags.items()}
        keyed |= {
            "tls.certificate": str(directory / "node.pem"),
            "tls.key": str(directory / "key.pem"),
        }
        return ConfigBootstrap.load(flags=keyed, environ={"HOME": "/nonexistent"})

    def test_check_tls_when_there_is_no_certificate_then_it_is_off(self) -> None:
        """On loopback that is fine."""
        (finding,) = check_tls(configured())
        assert (finding.ok, finding.detail) == (None, "off: neither port speaks it")

    def test_check_tls_when_the_certificate_is_valid_then_it_says_until_when(
        self, tmp_path: Path
    ) -> None:
        """One that will soon expire is no fault yet, but the mend is told."""
        authority = make_authority("CA")
        made = make_node_certificate(authority, ["node.example"])
        (finding,) = check_tls(self.configured(tmp_path, made))
        assert finding.ok is True
        assert finding.detail.startswith("node.example, valid until 20")
        soon = make_node_certificate(authority, ["node.example"], days=2)
        (finding,) = check_tls(self.configured(tmp_path, ended(soon, authority, days_ago=-3)))
        assert (finding.ok, finding.hint) == (True, "plexspaces tls renew")
        assert "expires in 2 days" in finding.detail

    def test_check_tls_when_it_has_expired_or_cannot_be_used_then_it_is_a_fault(
        self, tmp_path: Path
    ) -> None:
        """With the command that mends it."""
        authority = make_authority("CA")
        made = make_node_certificate(authority, ["node.example"])
        (finding,) = check_tls(self.configured(tmp_path, ended(made, authority)))
        assert (finding.ok, finding.hint) == (False, "plexspaces tls renew")
        assert "has expired" in finding.detail
        config = self.configured(tmp_path, made)
        (tmp_path / "key.pem").chmod(0o644)
        (finding,) = check_tls(config)
        assert (finding.ok, finding.hint) == (False, f"chmod 600 {tmp_path}/key.pem")
        missing = self.configured(tmp_path, made, client_ca=str(tmp_path / "none.pem"))
        (finding,) = check_tls(missing)
        assert finding.ok is False
