"""Addresses of nodes: host and port, and who can reach them."""

from __future__ import annotations

import ipaddress
import re

DEFAULT_ADDRESS = "127.0.0.1:9000"
"""Where a node listens by default."""


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``[IPV6]:PORT``; raises ValueError for anything else."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", address)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    if match[1] is not None:
        ipaddress.IPv6Address(match[1])
    return match[1] or match[2], int(match[3])


def is_loopback(host: str) -> bool:
    """Return whether only this host can reach `host`; resolves no name but localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
