"""The address of a node's gRPC API, as users give it."""

from __future__ import annotations

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.errors import InvalidArgument


def check_address(address: str) -> str:
    """Return the address if it is HOST:PORT or unix:PATH, else raise `InvalidArgument`."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    digits = port.isascii() and port.isdigit()
    if not (host and colon and digits and 0 < int(port) < 65536 and (bracketed or ":" not in host)):
        raise InvalidArgument(
            f"node address {address!r} is not HOST:PORT",
            hint=f"for example --node-address {DEFAULT_ADDRESS}",
        )
    return address
