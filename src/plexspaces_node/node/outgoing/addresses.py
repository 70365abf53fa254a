"""Which addresses are public: those that belong to hosts on the Internet, and to nothing near.

The lists are our own and not those of `ipaddress`, whose answers differ between versions of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from plexspaces_node.allowed_hosts import Address

_SPECIAL_V4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier's customers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_GLOBAL_V6 = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""Behind it a network translates to the IPv4 address in the last 32 bits (RFC 6052)."""

_SPECIAL_V6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        # Among them Teredo, which contains an IPv4 address.
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        # 6to4: contains an IPv4 address.
        ("2002::/16", "reserved"),
        ("3fff::/20", "reserved"),
    )
)


def kind_of(address: Address) -> str:
    """Return what an address is that is not public, such as "private"; "" for a public one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return kind_of(address.ipv4_mapped)
        if address in _TRANSLATED:
            return kind_of(IPv4Address(int(address) & 0xFFFFFFFF))
        return _found(address, _SPECIAL_V6) or ("" if address in _GLOBAL_V6 else "reserved")
    return _found(address, _SPECIAL_V4)


def _found(
    address: Address, networks: Sequence[tuple[IPv4Network, str] | tuple[IPv6Network, str]]
) -> str:
    return next((what for network, what in networks if address in network), "")
