"""Where the node listens: an early check whether it can, and the binding itself.

This module has the messages for an address that is not available. It does not know what is served.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

from plexspaces_node.address import split_address
from plexspaces_node.certificates import client_name
from plexspaces_node.errors import Unavailable
from plexspaces_node.http_notice import UNIX
from plexspaces_node.node.unix_sockets import for_the_owner

_IN_USE = (
    "the port is in use",
    "choose another with --address 127.0.0.1:9001, or see what uses it: ss -ltnp",
)
_REASONS = {
    errno.EADDRINUSE: _IN_USE,
    errno.EADDRNOTAVAIL: (
        "the address does not belong to this host",
        "listen on --address 127.0.0.1:9000, or list this host's addresses: ip -brief address",
    ),
    errno.EACCES: (
        "the port requires privileges",
        "choose one from 1024 up with --address 127.0.0.1:9000",
    ),
}


async def check_can_listen(address: str, *, hint: str | None = None) -> None:
    """Raise `Unavailable`, with the reason, if the node cannot listen on HOST:PORT now.

    Called before `bind`, because the gRPC library only writes to stderr that it did not get a port,
    and not why. A port that is free now can be taken a moment later; then `bind` fails. `hint`
    replaces the hint about the node's own address.
    """
    host, port = split_address(address)
    try:
        places = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise Unavailable(
            f"cannot listen on {address}: unknown host {host}",
            hint=hint or "listen on --address 127.0.0.1:9000",
        ) from error
    found = [bind_fault(family, place) for family, *_, place in places]
    faults = [error for error in found if error is not None]
    taken = [error for error in faults if error.errno == errno.EADDRINUSE]
    # One address of several is enough, as for the library, but never one half of a taken port.
    if taken or len(faults) == len(found):
        fault = (taken or faults)[0]
        reason, cure = _REASONS.get(fault.errno or 0, (str(fault.strerror), "plexspaces doctor"))
        raise Unavailable(f"cannot listen on {address}: {reason}", hint=hint or cure) from fault


def bind(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Make the server listen on HOST:PORT and return that with the actual port.

    With TLS if there are credentials. Raises `Unavailable` if the address is not available.
    """
    port, fault = 0, None
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        fault = error
    if port == 0:
        reason, hint = _IN_USE
        raise Unavailable(f"cannot listen on {address}: {reason}", hint=hint) from fault
    return f"{address.rpartition(':')[0]}:{port}"


def bind_unix(server: grpc.aio.Server, path: Path) -> None:
    """Make the server listen on a unix socket too, of mode 0600; raises `OSError`."""
    try:
        with for_the_owner(path):
            # Otherwise gRPC would take a percent sign for the beginning of a code.
            server.add_insecure_port(UNIX + quote(str(path)))
    except RuntimeError as error:
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error


def peer_certificate_name(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the name in a client's certificate, which was verified; "" if it has none."""
    # Not `x509_common_name`, which ends at a zero byte.
    for certificate in context.auth_context().get("x509_pem_cert", ()):
        return client_name(bytes(certificate))
    return ""


def bind_fault(family: int, place: tuple[object, ...]) -> OSError | None:
    """Return why a socket cannot be bound to an address now, or None."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the library does: connections that have just ended do not hold a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
    except OSError as error:
        return error
    return None
