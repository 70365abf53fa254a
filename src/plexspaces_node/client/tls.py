"""TLS of a client: whom it trusts, how it proves who it is, and why a handshake failed."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.address import split_address
from plexspaces_node.errors import (
    InvalidArgument,
    PlexSpacesError,
    Unauthenticated,
    WrongState,
    quoted,
)
from plexspaces_node.private_file import read_private

EXPLAIN_S = 3.0
"""How long the look for the reason of a failure may take."""

_FIRST_BYTES = 9
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21})
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's numbers, X509_V_ERR_…, of `SSLCertVerificationError.verify_code`."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client makes sure that it speaks to the node, and proves who it is itself.

    Attributes:
        ca: PEM file with the certificates of the authorities that may have signed the node's, or
            None for those that this host trusts.
        certificate: PEM file with the client's certificate, or None.
        key: PEM file with its private key, which only its owner may read; None if there is none.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument(
                "a client certificate needs its private key, and a key its certificate",
                hint="pass both, or neither",
            )

    def context(self) -> ssl.SSLContext:
        """Return what verifies the node, by its name too; blocks while it reads small files.

        Raises `InvalidArgument` for a file that cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ca)
            except (OSError, ssl.SSLError) as error:
                raise _unusable("the CA's certificate", self.ca, error) from error
        if self.certificate is not None and self.key is not None:
            read_private(self.key, what="the private key")
            try:
                context.load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise _unusable("the client certificate", self.certificate, error) from error
        return context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the PEM of the authorities, of the key and of the certificate, as gRPC takes them.

        Raises `InvalidArgument` as `context` does; blocks as that does.
        """
        self.context()
        ca = self.ca or _trusted_here()
        key = None if self.key is None else read_private(self.key, what="the private key")
        return _content(ca), key, _content(self.certificate)


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _trusted_here() -> Path | None:
    # Without it gRPC would use a list of its own, and not what the administrator trusts.
    found = ssl.get_default_verify_paths().cafile
    return Path(found) if found else None


def _unusable(what: str, path: Path, error: Exception) -> InvalidArgument:
    if isinstance(error, ssl.SSLError):
        mismatch = "KEY_VALUES_MISMATCH" in str(error)
        reason = "is not that of the private key" if mismatch else "is not a certificate in PEM"
    else:
        reason = f"cannot be read: {getattr(error, 'strerror', error)}"
    return InvalidArgument(f"{what} {str(path)!r} {reason}", hint=f"ls -l {quoted(path)}")


async def explain(address: str, tls: ClientTls | None) -> PlexSpacesError | None:
    """Return why client and node at HOST:PORT do not come together over TLS; None if they do.

    Called after a call has failed: gRPC says too little, and in a different way with each release.
    Makes one or two connections of its own and takes at most `EXPLAIN_S`. None too if nobody
    answers, or it is not about TLS.
    """
    try:
        async with asyncio.timeout(EXPLAIN_S):
            if tls is not None:
                return await _try(address, tls)
            return _plain_client(address) if await _speaks_tls(address) else None
    except (OSError, ValueError, TimeoutError):
        return None


async def _try(address: str, tls: ClientTls) -> PlexSpacesError | None:
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    try:
        first = await _first_bytes(address, context)
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(address, error)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
            return _plain_node(address)
        return _refused(address, tls, error.reason)
    except ConnectionError:
        # Nobody is there, or it has ended the handshake: OpenSSL's tell why, gRPC's do not.
        if await _speaks_tls(address):
            return _refused(address, tls, None)
        return _plain_node(address) if await _listens(address) else None
    # A node of gRPC speaks first, once it has accepted the client.
    return None if first else _refused(address, tls, None)


async def _first_bytes(address: str, context: ssl.SSLContext | None) -> bytes:
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        return await reader.read(_FIRST_BYTES)
    finally:
        writer.transport.abort()


async def _listens(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(*split_address(address))
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _speaks_tls(address: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is said to it: the question is only which language it speaks.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        _, writer = await asyncio.open_connection(*split_address(address), ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    writer.transport.abort()
    return True


def _plain_client(address: str) -> PlexSpacesError:
    return InvalidArgument(
        f"the node at {address} speaks TLS, and this client does not",
        hint=f"plexspaces login --node-address https://{address} --ca FILE",
    )


def _plain_node(address: str) -> PlexSpacesError:
    return InvalidArgument(
        f"the server at {address} does not speak TLS",
        hint="give the address without https://, or set [tls] certificate and key on the node",
    )


def _not_trusted(address: str, error: ssl.SSLCertVerificationError) -> PlexSpacesError:
    host, code = split_address(address)[0], error.verify_code
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        return InvalidArgument(
            f"the certificate of the node at {address} is not for the name {host}",
            hint="call the node by a name of its certificate, or on its host: "
            f"plexspaces tls renew --host {host}",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return WrongState(
            f"the certificate of the node at {address} {when}",
            hint="on the node's host: plexspaces tls renew; and compare the clocks: date",
        )
    if code in _UNKNOWN_CA:
        return InvalidArgument(
            f"the certificate of the node at {address} is signed by an authority that this client "
            "does not know",
            hint="use the CA's certificate (ca.pem) that was made with the node's: "
            f"plexspaces login --node-address https://{address} --ca ca.pem",
        )
    return InvalidArgument(
        f"the certificate of the node at {address} is not valid: {error.verify_message}",
        hint="make the node's certificate anew",
    )


def _refused(address: str, tls: ClientTls, reason: str | None) -> PlexSpacesError:
    why = f" ({reason.lower().replace('_', ' ')})" if reason else ""
    if tls.certificate is None:
        return Unauthenticated(
            f"the node at {address} requires a client certificate{why}",
            hint="on the node's host: plexspaces tls client NAME",
        )
    return Unauthenticated(
        f"the node at {address} does not accept the client certificate "
        f"{str(tls.certificate)!r}{why}",
        hint="use one that the node's client_ca has signed, and that has not expired",
    )
