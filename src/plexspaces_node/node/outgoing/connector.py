"""Connects to a destination: resolves its name, checks each address, and connects to that one.

Between the check and the connection nothing is resolved again, so that a name cannot lead somewhere
else the second time. TLS is verified for the name.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from plexspaces_node.allowed_hosts import DEFAULT_PORTS, Address, AllowedHosts, Host, host_of
from plexspaces_node.node.outgoing.addresses import kind_of
from plexspaces_node.node.outgoing.call import CallFailed, Code
from plexspaces_node.node.outgoing.resolver import Resolver

RESOLVE_S = 10.0
"""How long the lookup of a name may take."""

CONNECT_S = 10.0
"""How long connecting may take, with TLS, over all addresses of a name."""

ATTEMPT_S = 3.0
"""The same for each address but the last."""

READ_BYTES = 64 * 1024
"""How much is read at a time, and half of what waits to be read."""

_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a request goes."""

    scheme: str
    host: Host
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        usual = DEFAULT_PORTS[self.scheme] == self.port
        return str(self.host) if usual else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Stream:
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def is_open(self) -> bool:
        """Whether the other end has not closed it yet, as far as is known."""
        return not self.reader.at_eof() and not self.writer.transport.is_closing()

    def close(self) -> None:
        """Close it at once. Idempotent."""
        self.writer.transport.abort()


Open: TypeAlias = Callable[[Address, int, ssl.SSLContext | None, str], Awaitable[Stream]]
"""Connects to an address and port, with TLS for a server of this name if there is a context."""


async def open_stream(
    address: Address, port: int, tls: ssl.SSLContext | None, server_name: str
) -> Stream:
    """Connect; raises OSError, which `ssl.SSLError` is too."""
    if tls is None:
        return Stream(*await asyncio.open_connection(str(address), port, limit=READ_BYTES))
    return Stream(
        *await asyncio.open_connection(
            str(address), port, limit=READ_BYTES, ssl=tls, server_hostname=server_name
        )
    )


class Tls:
    """What verifies servers by the system's certificates; made at the first use: that is slow."""

    def __init__(self) -> None:
        self._made: asyncio.Future[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """Return it."""
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(_tls_context))
        return await asyncio.shield(self._made)


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connector:
    """Opens the connections of one application. Used on the event loop."""

    def __init__(
        self,
        allowed: AllowedHosts,
        *,
        resolver: Resolver,
        share: asyncio.Semaphore,
        tls: Callable[[], Awaitable[ssl.SSLContext]],
        open_stream: Open = open_stream,
    ) -> None:
        """`share` is for `Resolver.resolve`; `tls` returns the context of TLS."""
        self._allowed = allowed
        self._resolver = resolver
        self._share = share
        self._tls = tls
        self._open = open_stream

    async def connect(self, destination: Destination) -> Stream:
        """Return a new connection; raises `CallFailed`."""
        addresses = self._permitted(destination, await self._addresses(destination.host))
        tls = await self._tls() if destination.scheme == "https" else None
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CONNECT_S
        failed = CallFailed(Code.DNS_ERROR, f"{destination.host} has no address")
        for number, address in enumerate(addresses, 1):
            left_s = until_s - loop.time()
            within_s = left_s if number == len(addresses) else min(ATTEMPT_S, left_s)
            try:
                async with asyncio.timeout(within_s):
                    name = destination.host.name
                    return await self._open(address, destination.port, tls, name)
            except OSError as error:
                # Of which a timeout is one too.
                failed = _failed(destination, address, error)
                if failed.code in (Code.CERTIFICATE_ERROR, Code.CONNECTION_LIMIT_REACHED):
                    break
        raise failed

    async def _addresses(self, host: Host) -> Sequence[Address]:
        if host.address is not None:
            return (host.address,)
        try:
            async with asyncio.timeout(RESOLVE_S):
                return await self._resolver.resolve(host.name, self._share)
        except TimeoutError as error:
            raise CallFailed(
                Code.DNS_TIMEOUT, f"{host} was not resolved within {RESOLVE_S:g} s"
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise CallFailed(Code.DNS_ERROR, f"{host} cannot be resolved: {reason}") from error

    def _permitted(self, destination: Destination, found: Sequence[Address]) -> Sequence[Address]:
        port = destination.port
        permitted, prohibited = [], []
        for address in map(_unmapped, found):
            if kind_of(address) and not self._allowed.name(address, port):
                prohibited.append(address)
            else:
                permitted.append(address)
        if prohibited and not permitted:
            shown = ", ".join(f"{each} ({kind_of(each)})" for each in prohibited[:_MOST_SHOWN])
            raise CallFailed(
                Code.ADDRESS_PROHIBITED,
                f"{destination.host} is {shown}: not a public address, and not named as one",
                # Both, for one replaces all that were named before.
                hint=f"plexspaces deploy --replace … --allow-host {destination.host}:{port} "
                f"--allow-host {host_of(prohibited[0])}:{port}",
            )
        return permitted


def _unmapped(address: Address) -> Address:
    return host_of(address).address or address


def _failed(destination: Destination, address: Address, error: OSError) -> CallFailed:
    where = f"{destination.host}:{destination.port}"
    if destination.host.address is None:
        where += f" at {address}"
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"the certificate of {where} is not valid: {error.verify_message}"
        return CallFailed(Code.CERTIFICATE_ERROR, message)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return CallFailed(Code.TLS_ERROR, f"no TLS with {where}: {reason}")
    if isinstance(error, TimeoutError):
        return CallFailed(Code.CONNECTION_TIMEOUT, f"{where} did not accept a connection in time")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return CallFailed(
            Code.CONNECTION_LIMIT_REACHED, "the node has no file descriptor left", hint="try again"
        )
    reason = error.strerror or str(error)
    return CallFailed(Code.CONNECTION_REFUSED, f"cannot connect to {where}: {reason}")
