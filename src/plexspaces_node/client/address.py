"""The address of a node's gRPC API, as users give it."""

from __future__ import annotations

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.http_notice import TLS_SCHEME, UNIX


def parts_of(address: str) -> tuple[str, bool]:
    """Return HOST:PORT or unix:PATH, and whether the address says that it speaks TLS.

    Raises `InvalidArgument` for anything but HOST:PORT, https://HOST:PORT and unix:PATH.
    """
    checked = check_address(address)
    return checked.removeprefix(TLS_SCHEME), checked.startswith(TLS_SCHEME)


def check_address(address: str) -> str:
    """Return the address if it is HOST:PORT, https://HOST:PORT or unix:PATH.

    A slash at its end is taken away. Raises `InvalidArgument` for anything else.
    """
    if address.startswith(UNIX) and len(address) > len(UNIX):
        return address
    if address.startswith(TLS_SCHEME):
        address = address.removesuffix("/")
    host, colon, port = address.removeprefix(TLS_SCHEME).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    digits = port.isascii() and port.isdigit()
    named = bracketed or not {":", "/"} & set(host)
    if not (host and colon and digits and 0 < int(port) < 65536 and named):
        raise InvalidArgument(
            f"node address {address!r} is not HOST:PORT",
            hint=f"for example --node-address {DEFAULT_ADDRESS}",
        )
    return address
