"""Whether a node can listen where it is told to, and on how many connections."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import grpc

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.api.generated.application_pb2 import InspectNodeRequest
from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceStub
from plexspaces_node.api.options import client_options
from plexspaces_node.api.status import DETAILS_KEY
from plexspaces_node.certificates import describe, read_file, read_pair
from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding, one_line
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.api import descriptors
from plexspaces_node.node.api.listen import bind_fault
from plexspaces_node.node.http.problem import CHALLENGE

_GUARDED = "a PlexSpaces node that needs a token"
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_CONNECT_TIMEOUT_S = 3.0
_ANSWER_BYTES = 64 * 1024


async def check_address(config: Config) -> list[Finding]:
    """Check that the node can listen at its address, or that it already does.

    Connects only to loopback addresses.
    """
    address = config.node.address
    try:
        config.check_listen()
    except InvalidArgument as error:
        return [Finding("Node", "address", False, error.message, error.hint)]
    ok, detail = await _state_of(address, _shows(config) or _ask_node)
    other = None if ok else f"{_who_uses(address)}; or choose another: --address HOST:PORT"
    return [Finding("Node", "address", ok, detail, other)]


async def check_http_address(config: Config) -> list[Finding]:
    """Check the same of the address for HTTP; without the default one a node runs all the same."""
    address = config.http.address
    if not address:
        return [Finding("Node", "HTTP", None, "off, by [http] address")]
    if not config.node.allow_remote and "http.address" in dict(config.open_addresses()):
        # Told with the node's own address.
        return []
    ok, detail = await _state_of(address, _shows(config) or _ask_over_http)
    if ok:
        return [Finding("Node", "HTTP", True, detail)]
    other = f'{_who_uses(address)}; or choose another [http] address, or "off"'
    if config.origin("http.address") == "default":
        return [Finding("Node", "HTTP", None, f"{detail}; a node would run without HTTP", other)]
    return [Finding("Node", "HTTP", False, detail, other)]


async def _state_of(address: str, ask: Callable[[str], Awaitable[str | None]]) -> tuple[bool, str]:
    host, port = split_address(address)
    if is_loopback(host) and port and await _accepts(host, port):
        node = await ask(address)
        if node:
            return True, f"{address}: {node} is running here"
        return False, f"{address}: another program is using it"
    fault = await asyncio.to_thread(_bind_fault, host, port)
    return (True, f"{address} is free") if fault is None else (False, f"{address}: {fault}")


def _who_uses(address: str) -> str:
    return f"see what uses it: ss -ltnp 'sport = :{split_address(address)[1]}'"


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _shows(config: Config) -> Callable[[str], Awaitable[str | None]] | None:
    """Return what recognises a node by its certificate; None for a node without one."""
    certificate = config.tls.certificate
    return None if certificate is None else partial(_recognised, certificate)


async def _recognised(certificate: Path, address: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is said to it: what it shows is compared.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(*split_address(address), ssl=context)
    except (OSError, TimeoutError):
        return None
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    try:
        own = describe(read_file(certificate))
        found = describe(ssl.DER_cert_to_PEM_cert(shown).encode())
    except InvalidArgument:
        return None
    return f"a node with the certificate {own.serial[:8]}" if own == found else None


async def _ask_node(address: str) -> str | None:
    async with grpc.aio.insecure_channel(address, options=client_options()) as channel:
        try:
            node = await ApplicationServiceStub(channel).InspectNode(
                InspectNodeRequest(), timeout=_CONNECT_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            says_so = DETAILS_KEY in dict(error.trailing_metadata() or ())
            return _GUARDED if says_so and error.code() in _REFUSALS else None
    return f"PlexSpaces node {one_line(node.node_id)} ({one_line(node.version)})"


async def _ask_over_http(address: str) -> str | None:
    return await asyncio.to_thread(_get_node, *split_address(address))


def _get_node(host: str, port: int) -> str | None:
    connection = HTTPConnection(host, port, timeout=_CONNECT_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/node", headers={"Host": "localhost"})
        response = connection.getresponse()
        if response.getheader("www-authenticate") == CHALLENGE:
            return _GUARDED
        node = json.loads(response.read(_ANSWER_BYTES))
        return f"PlexSpaces node {one_line(node['node_id'])} ({one_line(node['version'])})"
    except (OSError, HTTPException, ValueError, TypeError, KeyError, AttributeError):
        return None
    finally:
        connection.close()


def _bind_fault(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    error = bind_fault(family, (host, port))
    return None if error is None else error.strerror or str(error)


def check_tls(config: Config) -> list[Finding]:
    """Check that the node's certificate and its key can be used, and how long it is valid."""
    tls = config.tls
    if tls.certificate is None or tls.key is None:
        return [Finding("Node", "TLS", None, "off: neither port speaks it")]
    try:
        info = describe(read_pair(tls.certificate, tls.key).certificate)
        if tls.client_ca is not None:
            describe(read_file(tls.client_ca), place=str(tls.client_ca))
    except InvalidArgument as error:
        return [Finding("Node", "TLS", False, error.message, error.hint)]
    fault = info.fault_at(datetime.now(UTC))
    if fault is None:
        detail = f"{info.name}, valid until {info.not_after:%Y-%m-%d}"
        return [Finding("Node", "TLS", True, detail)]
    is_valid = info.not_before <= datetime.now(UTC) < info.not_after
    return [Finding("Node", "TLS", is_valid, f"{info.name} {fault}", "plexspaces tls renew")]


def check_descriptors(config: Config, *, most: int | None = None) -> list[Finding]:
    """Check how many file descriptors a node can have; `most` replaces the process limit."""
    most = descriptors.most_allowed() if most is None else most
    applications = config.limits.applications
    needed = descriptors.reserve(applications)
    ports = 2 if config.http.address else 1
    connections = descriptors.for_connections(most, applications, ports=ports)
    each = " of each port" if ports > 1 else ""
    rest = f"the rest for {applications} applications"
    detail = f"{most}: {connections} for connections{each}, {rest}"
    hint = None
    if most - ports * connections < needed:
        detail += f", which may need {needed}"
        hint = f"ulimit -Hn {2 * needed}, or LimitNOFILE={2 * needed} in the node's systemd unit"
    return [Finding("Node", "descriptors", True if hint is None else None, detail, hint)]
