"""The certificate of a node's two doors, taken anew when its files change.

Before each handshake a door asks for what is valid now: three `stat`, and nothing is read unless
one of them tells of a change. What cannot be used, such as half of a renewal, is refused with one
warning, and the certificate before stays. Connections keep what they began with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple, cast

import grpc

from plexspaces_node.certificates import (
    CertificateInfo,
    Pair,
    describe,
    read_file,
    read_pair,
)
from plexspaces_node.errors import InvalidArgument, PlexSpacesError, quoted
from plexspaces_node.settings import DAY_S, TlsSection

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int, int] | None, ...]


class Loaded(NamedTuple):
    """A certificate that works, for both doors.

    Attributes:
        context: for connections of HTTP.
        configuration: for those of gRPC.
        info: what the certificate says.
    """

    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration
    info: CertificateInfo


class NodeTls:
    """The TLS of a node. Safe on many threads: gRPC asks on its own."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read the files; blocks for small reads. Raises `InvalidArgument` if they cannot be used.

        With `client_ca` clients need a certificate that one of its authorities has signed.
        """
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = Lock()
        self._stamp = self._look()
        self._loaded = self._load()
        self._given = self._loaded

    def __repr__(self) -> str:
        return f"<NodeTls {self._certificate} {self._loaded.info.name}>"

    @staticmethod
    def of(settings: TlsSection) -> NodeTls | None:
        """Return the TLS that the settings want, None for none; raises and blocks as a new one."""
        if settings.certificate is None or settings.key is None:
            return None
        return NodeTls(settings.certificate, settings.key, settings.client_ca)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses of the certificate as URLs have them, without wildcards."""
        found = self._loaded.info.hosts
        return tuple(f"[{each}]" if ":" in each else each for each in found if each[0] != "*")

    @property
    def asks_clients(self) -> bool:
        """Whether clients need a certificate."""
        return self._client_ca is not None

    def current(self) -> Loaded:
        """Return what is valid now; blocks for small reads if a file has changed. Never raises."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._take()
            return self._loaded

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection of HTTP."""
        return self.current().context

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of the gRPC server, which asks before each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration, self._renewed, self.asks_clients
        )

    async def watch(self) -> None:
        """Say in the log if the certificate has expired or will soon, now and then daily."""
        while True:
            self._warn()
            await asyncio.sleep(DAY_S)

    def _renewed(self) -> grpc.ServerCertificateConfiguration:
        # gRPC keeps what it was given last, and takes None, which its types do not have, for that.
        loaded = self.current()
        with self._lock:
            if loaded is self._given:
                return cast(grpc.ServerCertificateConfiguration, None)
            self._given = loaded
        return loaded.configuration

    def _warn(self) -> None:
        if (fault := self.current().info.fault_at(datetime.now(UTC))) is not None:
            _log.warning(
                "the node's certificate %s %s; renew it: plexspaces tls renew",
                *(quoted(self._certificate), fault),
            )

    def _take(self) -> None:
        try:
            self._loaded = self._load()
        except PlexSpacesError as error:
            _log.warning("the certificate before is kept, for the new one: %s", error)
        else:
            _log.info(
                "certificate renewed: %s, valid until %s",
                *(self._loaded.info.name, self._loaded.info.not_after),
            )

    def _load(self) -> Loaded:
        pair = read_pair(self._certificate, self._key)
        info = describe(pair.certificate, place=str(self._certificate))
        authorities = None if self._client_ca is None else read_file(self._client_ca)
        if authorities is not None:
            describe(authorities, place=str(self._client_ca))
        return Loaded(
            _context(pair, authorities),
            grpc.ssl_server_certificate_configuration(
                [(pair.key, pair.certificate)], root_certificates=authorities
            ),
            info,
        )

    def _look(self) -> _Stamp:
        return tuple(
            None if path is None else _stamp(path)
            for path in (self._certificate, self._key, self._client_ca)
        )


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _context(pair: Pair, authorities: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Exactly what was checked: the files may be others by now, and Python takes only files.
    with open(os.memfd_create("certificate"), "wb") as memory:
        memory.write(pair.key + b"\n" + pair.certificate)
        memory.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
            if authorities is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"OpenSSL does not take the certificate or the CA's: {error}",
                hint="make it anew: plexspaces tls init --host NAME",
            ) from error
    return context
