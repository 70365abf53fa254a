"""TLS of a node's two ports, under attack: what is refused, with which words, and renewals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.certificates import ended, serial_of
from support.nodes import builder
from support.patience import patient

from plexspaces_node import programs
from plexspaces_node.address import split_address
from plexspaces_node.certificates import (
    Pair,
    make_authority,
    make_client_certificate,
    make_node_certificate,
)
from plexspaces_node.cli.embedded import node_or_embedded
from plexspaces_node.client import ClientTls, NodeClient
from plexspaces_node.client.http_messages import MOST_BYTES
from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.doctor.ports import check_address, check_http_address
from plexspaces_node.errors import InvalidArgument, Unauthenticated, Unavailable, WrongState
from plexspaces_node.node.node import Node
from plexspaces_node.private_file import replace

HOSTS = ["node.example", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1"]

Running = Callable[..., AbstractAsyncContextManager[Node]]


class Files:
    """The certificates of a test, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = make_authority("CA of the test")
        self.ca = self.put("ca", self.authority).certificate
        self.node = self.put("node", make_node_certificate(self.authority, HOSTS))
        self.admin = self.put("admin", make_client_certificate(self.authority, "admin"))
        assert self.ca is not None

    def put(self, name: str, pair: Pair) -> ClientTls:
        """Write a pair; return it as a client of the test's authority would be given it."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        replace(key, pair.key)
        replace(certificate, pair.certificate)
        return ClientTls(self.directory / "ca.pem", certificate, key)

    @property
    def client(self) -> ClientTls:
        """A client that trusts the authority and has no certificate."""
        return ClientTls(self.ca)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "tls").mkdir()
    return Files(tmp_path / "tls")


@pytest.fixture
def running(files: Files, tmp_path: Path) -> Running:
    """Runs a node with TLS, that asks for client certificates if it is told so."""

    @asynccontextmanager
    async def run(*, asks_clients: bool = False) -> AsyncIterator[Node]:
        made = (
            builder(tmp_path / "data")
            .with_setting("http.address", "127.0.0.1:0")
            .with_setting("tls.certificate", str(files.node.certificate))
            .with_setting("tls.key", str(files.node.key))
        )
        if asks_clients:
            made.with_setting("tls.client_ca", str(files.ca))
        async with made.build() as node:
            yield node

    return run


async def by_grpc(node: Node, tls: ClientTls | None, host: str = "127.0.0.1") -> str:
    """Ask for the node's id."""
    address = f"{host}:{split_address(node.address)[1]}"
    async with NodeClient(address, tls=tls) as client:
        return (await client.inspect_node(timeout_s=patient(10))).node_id


class Http:
    """A connection to the HTTP port, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(
        cls, node: Node, context: ssl.SSLContext | None, host: str = "127.0.0.1"
    ) -> Http:
        name = host if context is not None else None
        port = split_address(node.http_address)[1]
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        )

    async def node_id(self, host: str = "localhost") -> str:
        """Ask for the node's id."""
        self.writer.write(f"GET /v1/node HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return str(json.loads(await self.reader.readexactly(length))["node_id"])

    def serial(self) -> str:
        """The serial number of the certificate that the node has shown on this connection."""
        found = self.writer.get_extra_info("peercert")
        return str(found["serialNumber"]).lower().lstrip("0")

    def close(self) -> None:
        self.writer.transport.abort()


async def by_http(node: Node, tls: ClientTls | None, host: str = "127.0.0.1") -> str:
    """Ask for the node's id, on a connection of its own."""
    connection = await Http.connect(node, tls.context() if tls else None, host)
    try:
        return await connection.node_id()
    finally:
        connection.close()


async def test_both_doors_when_the_client_trusts_the_ca_then_they_answer(
    running: Running, files: Files
) -> None:
    """By each name of the certificate, with no less than TLS 1.2 and with HTTP/1.1 by ALPN."""
    async with running() as node:
        assert node.speaks_tls
        assert await by_grpc(node, files.client) == "node-test"
        assert await by_grpc(node, files.client, "localhost") == "node-test"
        assert await by_http(node, files.client, "node.example") == "node-test"
        context = files.client.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        connection = await Http.connect(node, context)
        tls = connection.writer.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        # By a name of its certificate, which is in no setting.
        assert await connection.node_id("node.example:8080") == "node-test"
        assert await connection.node_id("192.0.2.7:8080") == "node-test"
        assert await connection.node_id("[2001:db8::7]:8080") == "node-test"
        connection.writer.write(b"GET /v1/node HTTP/1.1\r\nhost: 192.0.2.8\r\n\r\n")
        assert (await connection.reader.readline()).startswith(b"HTTP/1.1 421 ")
        connection.close()


async def test_a_client_when_the_certificate_is_not_for_the_name_then_it_says_so(
    running: Running, files: Files
) -> None:
    """The node may be another one; nothing is sent to it."""
    files.put("node", make_node_certificate(files.authority, ["node.example"]))
    async with running() as node:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(InvalidArgument, match=rf"is not for the name {host}"):
                await by_grpc(node, files.client, host)
            with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
                await by_http(node, files.client, host)


async def test_a_client_when_the_certificate_has_expired_then_it_says_so(
    running: Running, files: Files
) -> None:
    """The node itself starts, and says it too."""
    node_now = make_node_certificate(files.authority, HOSTS)
    files.put("node", ended(node_now, files.authority))
    async with running() as node:
        with pytest.raises(WrongState, match=r"certificate of the node at .* has expired"):
            await by_grpc(node, files.client)
        with pytest.raises(ssl.SSLCertVerificationError, match="has expired"):
            await by_http(node, files.client)


async def test_a_client_when_it_does_not_know_the_ca_then_it_says_so(
    running: Running, files: Files
) -> None:
    """Of one that trusts another, and of one that trusts what the host does."""
    other = files.put("other", make_authority("another CA")).certificate
    async with running() as node:
        for tls in (ClientTls(other), ClientTls()):
            with pytest.raises(InvalidArgument, match="an authority that this client does not"):
                await by_grpc(node, tls)
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate"):
                await by_http(node, tls)


async def test_a_client_when_it_does_not_speak_tls_then_it_says_so(
    running: Running, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain text to the ports of TLS gets no answer; TLS to a port without it is told apart."""
    async with running() as node:
        with monkeypatch.context() as patch:
            # Otherwise it would be reached by its unix socket.
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
            with pytest.raises(InvalidArgument, match="speaks TLS, and this client does not"):
                await by_grpc(node, None)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await by_http(node, None)
    async with builder(tmp_path / "plain").build() as plain:
        with pytest.raises(InvalidArgument, match="does not speak TLS"):
            await by_grpc(plain, files.client)
    with pytest.raises(Unavailable, match="no node answers"):
        await by_grpc(plain, files.client)
    with pytest.raises(Unavailable, match="no node answers"):
        await by_grpc(plain, None)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "is_spoken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)],
)
async def test_both_doors_when_the_client_is_old_then_tls_1_2_is_the_oldest(
    running: Running, files: Files, version: ssl.TLSVersion, is_spoken: bool
) -> None:
    """What is older has known weaknesses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    # OpenSSL has it no more, unless it is asked for everything.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with running() as node:
        for address in (node.address, node.http_address):
            port = split_address(address)[1]
            context.set_alpn_protocols(["h2" if address == node.address else "http/1.1"])
            opening = asyncio.open_connection("127.0.0.1", port, ssl=context)
            if not is_spoken:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await opening
                continue
            _, writer = await opening
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
            writer.transport.abort()


async def test_both_doors_when_they_ask_for_a_certificate_then_only_one_of_the_ca_will_do(
    running: Running, files: Files
) -> None:
    """None, one of another CA with the same name, the node's own, one that has expired."""
    forged = make_client_certificate(make_authority("CA of the test"), "admin")
    refused = {
        "requires a client certificate": files.client,
        "does not accept the client certificate '.*forged.pem'": files.put("forged", forged),
        "does not accept the client certificate '.*node.pem'": files.node,
        "does not accept the client certificate '.*old.pem'": files.put(
            "old", ended(make_client_certificate(files.authority, "admin"), files.authority)
        ),
    }
    async with running(asks_clients=True) as node:
        assert await by_grpc(node, files.admin) == "node-test"
        assert await by_http(node, files.admin) == "node-test"
        for words, tls in refused.items():
            with pytest.raises(Unauthenticated, match=words):
                await by_grpc(node, tls)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await by_http(node, tls)
        assert await by_http(node, files.admin) == "node-test"


async def test_both_doors_when_the_certificate_is_renewed_then_new_connections_have_it(
    running: Running, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that are open go on; a half that does not fit changes nothing, said once."""
    caplog.set_level(logging.INFO, logger="plexspaces_node.node.tls")
    async with running() as node:
        old = await Http.connect(node, files.client.context())
        host, port = split_address(node.address)
        async with NodeClient(node.address, tls=files.client) as held:
            await held.inspect_node()
            first = old.serial()
            assert await served_serial(host, port) == first

            renewed = make_node_certificate(files.authority, HOSTS)
            assert files.node.certificate is not None
            replace(files.node.certificate, renewed.certificate)
            for _ in range(3):
                assert await served_serial(host, port) == first
                assert await by_http(node, files.client) == "node-test"
            files.put("node", renewed)
            second = await served_serial(host, port)
            new = await Http.connect(node, files.client.context())
            assert second == new.serial() != first

            assert await old.node_id() == await new.node_id() == "node-test"
            assert (await held.inspect_node()).node_id == "node-test"
            assert await by_grpc(node, files.client) == "node-test"
        for connection in (old, new):
            connection.close()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == [
        "the certificate before is kept, for the new one",
        "certificate renewed",
    ]


async def test_both_doors_when_another_ca_is_for_clients_then_the_former_ones_are_out(
    running: Running, files: Files
) -> None:
    """Without a restart, as the certificate."""
    async with running(asks_clients=True) as node:
        assert await by_grpc(node, files.admin) == "node-test"
        other = make_authority("next CA")
        trusted = files.directory / "old-ca.pem"
        trusted.write_bytes(files.authority.certificate)
        assert files.ca is not None
        replace(files.ca, other.certificate)
        next_client = files.put("next", make_client_certificate(other, "admin"))
        former = ClientTls(trusted, files.admin.certificate, files.admin.key)
        taken = ClientTls(trusted, next_client.certificate, next_client.key)
        with pytest.raises(Unauthenticated, match="does not accept"):
            await by_grpc(node, former)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await by_http(node, former)
        assert await by_grpc(node, taken) == await by_http(node, taken) == "node-test"


async def test_http_when_clients_do_not_finish_the_handshake_then_others_are_served(
    running: Running, files: Files
) -> None:
    """Silent ones, ones that send what is not TLS, ones that leave; a stop waits for none."""
    async with running() as node:
        address = split_address(node.http_address)
        silent = [socket.create_connection(address) for _ in range(200)]
        try:
            for index, each in enumerate(silent):
                if index % 3:
                    each.sendall(b"\x16\x03\x01\x02\x00\x01" if index % 3 == 1 else b"GET / x\r\n")
                if index % 2:
                    each.close()
            async with asyncio.timeout(patient(10)):
                assert await by_http(node, files.client) == "node-test"
                await node.drain()
        finally:
            for each in silent:
                each.close()


async def test_node_when_others_may_read_its_key_then_it_does_not_start(
    running: Running, files: Files
) -> None:
    """Nor with a key of another certificate; the hint mends it, and nothing is left."""
    assert files.node.key is not None
    files.node.key.chmod(0o644)
    with pytest.raises(InvalidArgument, match="can be read or written by others") as raised:
        async with running():
            pass
    assert raised.value.hint == f"chmod 600 {files.node.key}"
    assert not (files.directory.parent / "data").exists()
    files.node.key.chmod(0o600)
    replace(files.node.key, files.authority.key)
    with pytest.raises(InvalidArgument, match="is not that of the certificate"):
        async with running():
            pass


async def served_serial(host: str, port: int) -> str:
    """Return the serial number of the certificate that the gRPC port shows."""
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return serial_of(found)


async def test_doctor_when_the_node_runs_then_it_knows_it_by_its_certificate(
    running: Running, files: Files
) -> None:
    """And another program that speaks TLS is not taken for it."""
    async with running(asks_clients=True) as node:
        flags = {
            "node.address": node.address,
            "http.address": node.http_address,
            "tls.certificate": str(files.node.certificate),
            "tls.key": str(files.node.key),
        }
        config = ConfigBootstrap.load(flags=flags, environ={"HOME": "/nonexistent"})
        for check in (check_address, check_http_address):
            [finding] = await check(config)
            assert finding.ok is True
            assert "a node with the certificate" in finding.detail
        renewed = make_node_certificate(files.authority, HOSTS)
        files.put("other", renewed)
        flags["tls.certificate"] = str(files.directory / "other.pem")
        config = ConfigBootstrap.load(flags=flags, environ={"HOME": "/nonexistent"})
        [finding] = await check_address(config)
        assert finding.ok is False
        assert "another program is using it" in finding.detail


async def test_messages_when_the_ports_speak_tls_then_they_go_by_http_as_before(
    running: Running, files: Files, probe_wasm: Path
) -> None:
    """Small ones on the HTTP port, large ones by gRPC; both with the client's certificate."""
    async with (
        running(asks_clients=True) as node,
        NodeClient(node.address, tls=files.admin) as client,
    ):
        await client.deploy("one", probe_wasm)
        for size, way in ((0, "http"), (200_000, "http"), (MOST_BYTES + 1, "grpc")):
            result = await client.invoke("one", b"x" * size, type="e")
            assert (result.payload, result.transport) == (b"x" * size, way)


async def test_commands_when_the_host_trusts_the_ca_then_https_is_enough(
    running: Running, files: Files, probe_wasm: Path, tmp_path: Path
) -> None:
    """Also by HTTP; without the scheme another user is told what to do, and nothing else."""
    async with (
        running() as node,
        NodeClient(node.address, tls=files.client) as client,
    ):
        await client.deploy("one", probe_wasm)
        trusting = {**os.environ, "SSL_CERT_FILE": str(files.ca)}
        invoke = ("invoke", "one", "--type", "e", "--data", "hi", "--stats", "--node-address")
        done = await command(*invoke, f"https://{node.address}", environ=trusting)
        assert (done.returncode, done.stdout) == (0, b"hi")
        assert b"http" in done.stderr.splitlines()[-2]
        listed = await command(
            "list", "--node-address", f"https://{node.address}", environ=trusting
        )
        assert (listed.returncode, listed.stderr) == (0, b"")
        own = await command("list", "--node-address", node.address, environ=trusting)
        assert own.returncode == 0, "by the unix socket"
        other = {**trusting, "XDG_CACHE_HOME": str(tmp_path)}
        plain = await command("list", "--node-address", node.address, environ=other)
        assert plain.returncode == 2
        assert plain.stderr.decode().splitlines() == [
            f"error: the node at {node.address} speaks TLS, and this client does not",
            f"hint: plexspaces login --node-address https://{node.address} --ca FILE",
        ]


async def test_http_when_curl_sends_a_large_file_then_it_arrives(
    running: Running, files: Files, tmp_path: Path
) -> None:
    """With the CA's certificate; without it curl sends nothing."""
    assert files.ca is not None
    wasm = tmp_path / "large.wasm"
    # A custom section of 8 MiB.
    wasm.write_bytes(b"\0asm\1\0\0\0\0\x86\x80\x80\x04\x01x" + b"\0" * (8 * 1024 * 1024 + 4))
    async with running() as node:
        url = f"https://{node.http_address}"
        curl = ("curl", "-sS", "--cacert", str(files.ca))
        sent = await ran(*curl, "-T", str(wasm), f"{url}/v1/artifacts/")
        assert json.loads(sent.stdout)["size_bytes"] == wasm.stat().st_size
        refused = await ran("curl", "-sS", url)
        assert refused.returncode == 60
        unsafe = await ran("curl", "-sS", f"http://{node.http_address}")
        assert (unsafe.returncode, unsafe.stdout) != (0, b"")


async def test_embedded_node_when_tls_is_configured_then_it_does_without(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but its command knows of it; the configuration is for the node that serves."""
    config = tmp_path / "release.toml"
    config.write_text(
        f'[tls]\ncertificate = "{files.node.certificate}"\nkey = "{files.node.key}"\n'
    )
    monkeypatch.setenv("PLEXSPACES_CONFIG", str(config))
    built = programs.programs_cache()
    monkeypatch.setattr(programs, "programs_cache", lambda *_: built)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        async with node_or_embedded(address, "process") as client:
            assert (await client.inspect_node()).node_id == "embedded"


async def command(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run the command."""
    return await ran(sys.executable, "-m", "plexspaces_node.cli.main", *arguments, environ=environ)


async def ran(
    *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program while the node serves."""
    return await asyncio.to_thread(
        subprocess.run, arguments, capture_output=True, env=environ, timeout=patient(60)
    )


async def test_certificate_when_its_name_has_a_token_then_it_may_what_that_may(
    running: Running, files: Files
) -> None:
    """By both doors, without the token; another name, or the token revoked, may nothing."""
    stranger = files.put("bo", make_client_certificate(files.authority, "bo"))
    async with (
        running(asks_clients=True) as node,
        NodeClient(node.address, tls=files.admin, http=False) as admin,
    ):
        await admin.create_token("admin", scopes=["admin"])
        who = await admin.whoami()
        assert (who.kind, who.name, who.scopes) == ("certificate", "admin", ("admin",))
        assert await by_http(node, files.admin) == "node-test"
        with pytest.raises(Unauthenticated, match="nothing is granted to the certificate 'bo'"):
            await by_grpc(node, stranger)
        assert await http_status(node, stranger) == 401
        await admin.revoke_token("admin")
        with pytest.raises(Unauthenticated, match="nothing is granted"):
            await admin.whoami()
        assert await http_status(node, files.admin) == 401


async def test_node_when_other_hosts_reach_it_then_a_token_is_needed_before_it_serves(
    files: Files, tmp_path: Path
) -> None:
    """A certificate alone is not enough; nothing of the data directory is left."""
    refused = builder(tmp_path / "data").with_address("0.0.0.0:0")
    with pytest.raises(InvalidArgument, match="and the node has no certificate"):
        async with refused.build():
            pass
    refused.with_setting("tls.certificate", str(files.node.certificate))
    refused.with_setting("tls.key", str(files.node.key))
    with pytest.raises(InvalidArgument, match="and no token exists") as raised:
        async with refused.build():
            pass
    assert "plexspaces token create --name admin --scope admin" in str(raised.value.hint)
    assert not (tmp_path / "data").exists()


async def http_status(node: Node, tls: ClientTls) -> int:
    """Return with which status the HTTP port answers."""
    connection = await Http.connect(node, tls.context())
    connection.writer.write(b"GET /v1/node HTTP/1.1\r\nhost: localhost\r\n\r\n")
    head = await connection.reader.readuntil(b"\r\n\r\n")
    connection.close()
    return int(head.split()[1])


async def test_node_when_its_program_wants_no_tls_then_it_does_not_listen_beyond_loopback(
    data_dir: Path,
) -> None:
    """A certificate that is configured and not used protects nothing."""
    wanted = builder(data_dir).with_address("0.0.0.0:0").without_tls()
    for key in ("certificate", "key"):
        wanted.with_setting(f"tls.{key}", str(data_dir / key))
    with pytest.raises(InvalidArgument, match="can be reached from other hosts"):
        async with wanted.build():
            pass
