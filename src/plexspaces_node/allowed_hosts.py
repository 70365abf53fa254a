"""Which hosts an application may send HTTP requests to: parsed from what a user names, and matched.

No names are resolved here. A name stands for itself; an address that is not public has to be named
as an address, also if a name that is allowed resolves to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from plexspaces_node.errors import InvalidArgument

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST_HOSTS = 256
"""How many hosts an application can be allowed."""

NO_HOSTS = "none"
"""What allows nothing: in the deploy of a next version it takes away what the previous one had."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""A host that is named without a port is allowed at these."""

_HINT = "write HOST or HOST:PORT, for example api.example.com:443, *.example.com or [::1]:8080"
_MAX_NAME = 253
_MAX_PORT = 65535
_SHOWN = 100
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Letters that the standards before and after 2008 convert to different names.
_AMBIGUOUS = frozenset("ßς\u200c\u200d")


class NotAHost(ValueError):
    """A text that is no host, or no host and port; says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host: a name in lower case and ASCII, or an address."""

    name: str
    address: Address | None = None

    def __str__(self) -> str:
        return f"[{self.name}]" if ":" in self.name else self.name


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry.

    Attributes:
        host: without the `*.` of an entry for subdomains.
        port: the only one that is allowed, or None for those of HTTP and HTTPS.
        subdomains: whether it is for every name below the host's, and not for that itself.
    """

    host: Host
    port: int | None = None
    subdomains: bool = False

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.subdomains else ''}{self.host}{port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one entry; raises `InvalidArgument`."""
        try:
            subdomains = text.startswith("*.")
            host, port = split_host(text[2:] if subdomains else text)
            if subdomains and host.address is not None:
                raise NotAHost("an address has no subdomains")
        except NotAHost as error:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            raise InvalidArgument(
                f"{shown!r} is not a host to allow: {error}", hint=_HINT
            ) from error
        return cls(host, port, subdomains)

    def covers(self, host: Host, port: int) -> bool:
        """Return whether a request to this host and port is allowed."""
        if self.port is None:
            if port not in DEFAULT_PORTS.values():
                return False
        elif self.port != port:
            return False
        if self.subdomains:
            return host.address is None and host.name.endswith(f".{self.host.name}")
        return host == self.host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """All that one application may send requests to; nothing if it is empty."""

    entries: tuple[AllowedHost, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Read entries, of which `NO_HOSTS` alone means none; raises `InvalidArgument`."""
        if NO_HOSTS in texts:
            if len(set(texts)) > 1:
                raise InvalidArgument(
                    f"hosts to allow cannot be {NO_HOSTS!r} and others",
                    hint=f"omit --allow-host {NO_HOSTS}",
                )
            return cls()
        if len(texts) > MOST_HOSTS:
            raise InvalidArgument(
                f"{len(texts)} hosts to allow are more than {MOST_HOSTS}",
                hint="allow the subdomains of a host: --allow-host '*.example.com'",
            )
        return cls(tuple(dict.fromkeys(AllowedHost.parse(text) for text in texts)))

    @property
    def texts(self) -> tuple[str, ...]:
        """The entries in their usual form."""
        return tuple(str(entry) for entry in self.entries)

    def cover(self, host: Host, port: int) -> bool:
        """Return whether a request to this host and port is allowed."""
        return _any_covers(self.entries, host, port)

    def name(self, address: Address, port: int) -> bool:
        """Return whether this very address is named as an address."""
        return _any_covers(self.entries, host_of(address), port)


def _any_covers(entries: Iterable[AllowedHost], host: Host, port: int) -> bool:
    return any(entry.covers(host, port) for entry in entries)


def split_host(text: str) -> tuple[Host, int | None]:
    """Read `HOST` or `HOST:PORT`, as in a URL; raises `NotAHost`."""
    if "://" in text:
        raise NotAHost("it has a scheme")
    if "@" in text:
        raise NotAHost("it has a user name")
    if set(text) & set("/?#"):
        raise NotAHost("it has a path")
    if text.startswith("["):
        inside, closing, rest = text[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise NotAHost("its bracket is not closed before the port")
        try:
            return host_of(ipaddress.IPv6Address(_without_zone(inside))), _port(rest)
        except ipaddress.AddressValueError as error:
            raise NotAHost(f"{inside!r} is not an IPv6 address") from error
    name, colon, port = text.partition(":")
    if ":" in port:
        raise NotAHost("an IPv6 address has brackets around it")
    return _host_named(name), _port(colon + port)


def host_of(address: Address) -> Host:
    """Return the host that an address is; an IPv4 address in IPv6 is that IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Host(str(address), address)


def _without_zone(text: str) -> str:
    if "%" in text:
        raise NotAHost("its address has a zone")
    return text


def _port(text: str) -> int | None:
    """Read ":PORT" or nothing."""
    if not text:
        return None
    digits = text[1:]
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 0 < int(digits) <= _MAX_PORT:
        raise NotAHost(f"its port is not a number from 1 to {_MAX_PORT}")
    return int(digits)


def _host_named(text: str) -> Host:
    name = _ascii(text).lower().removesuffix(".")
    if not name:
        raise NotAHost("it has no name")
    if "*" in name:
        raise NotAHost("`*.` can only be its beginning")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # What looks like a number is one of the many ways to write an address, or nothing.
        try:
            return host_of(ipaddress.IPv4Address(name))
        except ipaddress.AddressValueError as error:
            raise NotAHost(f"{name[:_SHOWN]!r} is not an IPv4 address") from error
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise NotAHost("its name is not valid")
    return Host(name)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    if _AMBIGUOUS & set(text):
        raise NotAHost("write this name in ASCII, with xn--: it can be converted in two ways")
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise NotAHost("its name is not valid") from error
