"""The way to a node: by TCP, with TLS or without, or by the unix socket of one on this host.

Loads neither gRPC nor protobuf.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.client.address import parts_of
from plexspaces_node.client.credentials import credentials_of
from plexspaces_node.client.tls import ClientTls
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.http_notice import GRPC_SOCKET, HTTP_SOCKET, UNIX, find
from plexspaces_node.token_text import check_secret


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches a node, and what it proves itself with.

    Attributes:
        address: as its user gave it, without https://; errors name it.
        target: where gRPC connects: the address, or the unix socket of the node there.
        tls: None for a connection without.
        token: "" for none.
    """

    address: str
    target: str
    tls: ClientTls | None = None
    token: str = field(default="", repr=False)


def way_to(address: str, *, tls: ClientTls | None = None, token: str | None = None) -> Way:
    """Return the way to the node at an address; blocks for small files.

    `tls` and `token` are, if None, those of the environment and of `plexspaces login`. A node of
    this user on this host is reached by its unix socket, unless TLS is asked for. Raises
    `InvalidArgument` for an address that is none, for credentials that cannot be used, and for a
    token that others could read on its way.
    """
    named, is_https = parts_of(address)
    if tls is None or token is None:
        found = credentials_of(named)
        tls = tls or found.tls
        token = found.token if token is None else token
    elif token:
        check_secret(token, source="token=")
    if named.startswith(UNIX):
        check_tls(named, tls)
        return Way(named, _as_target(named), token=token)
    if tls is None and is_https:
        tls = ClientTls()
    notice = find(named) if tls is None else None
    if notice is not None and notice.grpc_socket:
        return Way(named, UNIX + notice.grpc_socket, token=token)
    if token and tls is None and not is_loopback(split_address(named)[0]):
        raise InvalidArgument(
            f"a token is not sent to {named} without TLS: others could read it on its way",
            hint=f"give its address as https://{named}; see plexspaces tls init on the node's host",
        )
    return Way(named, named, tls, token)


def check_tls(address: str, tls: ClientTls | None) -> None:
    """Raise `InvalidArgument` if a unix socket is to be reached with TLS."""
    if tls is not None and address.startswith(UNIX):
        raise InvalidArgument(
            f"the node at {address} is reached without TLS: nobody is in between",
            hint="omit what is for TLS",
        )


def http_address(address: str, *, tls: bool = False) -> str | None:
    """Return where the node at an address serves HTTP to this user; None if nothing says it.

    It is unix:PATH, HOST:PORT, or https://HOST:PORT.
    """
    if address.startswith(UNIX):
        path = Path(address[len(UNIX) :])
        beside = path.with_name(HTTP_SOCKET)
        return f"{UNIX}{beside}" if path.name == GRPC_SOCKET and _is_socket(beside) else None
    notice = find(address)
    if notice is None:
        return None
    if notice.http_socket and not tls:
        return UNIX + notice.http_socket
    return notice.http_address or None


def _as_target(unix: str) -> str:
    # gRPC would take a percent sign for the beginning of a code.
    return UNIX + quote(unix[len(UNIX) :])


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
