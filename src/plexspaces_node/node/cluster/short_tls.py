"""TLS between nodes, for short messages: asyncio's own costs more than all else of a hop.

It makes a buffer of 256 KiB for each read, and keeps what is written in a queue of its own. This
does neither: what comes is decrypted at once and handed on, what is written is encrypted at once.
The protocol and all checks are those of OpenSSL, by `ssl.MemoryBIO`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from plexspaces_node.link.frames import Body

HANDSHAKE_S = 10.0
"""How long a handshake may take."""

_P = TypeVar("_P", bound=asyncio.Protocol)

_RECORD_BYTES = 16 * 1024
"""The most that a record of TLS has."""


async def connected(
    context: ssl.SSLContext, address: tuple[str, int], hostname: str, make: Callable[[], _P]
) -> _P:
    """Connect to HOST and PORT, and return what `make` makes for the connection.

    Raises `OSError` unless who answers has a certificate for `hostname`. If the caller is
    cancelled, the connection is closed.
    """
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[_P] = loop.create_future()

    def made(transport: TlsTransport) -> _P:
        protocol = make()
        if shaken.done():
            transport.abort()
        else:
            # Not before it has the transport.
            loop.call_soon(lambda: None if shaken.done() else shaken.set_result(protocol))
        return protocol

    def failed(error: OSError) -> None:
        if not shaken.done():
            shaken.set_exception(error)

    transport, _ = await loop.create_connection(
        lambda: ShortTls(context, made, server_hostname=hostname, failed=failed), *address
    )
    try:
        return await shaken
    except BaseException:
        transport.abort()
        raise


class ShortTls(asyncio.Protocol):
    """A connection with TLS, from its first byte: to the network a protocol.

    Once the handshake is done, `made` is called with a transport for what is above.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        made: Callable[[TlsTransport], asyncio.Protocol],
        *,
        server_hostname: str | None = None,
        handshake_s: float = HANDSHAKE_S,
        failed: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        """Serve, or call the host of this name, which its certificate must have.

        `made` returns the protocol above. `failed` is called instead if there is none: after
        `handshake_s`, if the other side leaves, or if it does not prove who it is.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._made, self._failed = made, failed
        self._handshake_s = handshake_s
        self._above: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._handshake_s, self._expire)
        self._shake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._above is not None:
            self._above.connection_lost(exc)
        elif not self._is_over:
            told = exc if isinstance(exc, OSError) else ConnectionError("it was closed")
            self._fail(told)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._above is None:
            self._shake()
        else:
            self._read()

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    def write(self, data: Body) -> None:
        """Encrypt and send."""
        self._tls.write(data)
        self._flush()

    def pause(self) -> None:
        """Hand nothing on."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Hand on what has come, soon, and what comes."""
        self._is_paused = False
        self.transport.resume_reading()
        asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        above, tls, incoming = self._above, self._tls, self._incoming
        assert above is not None
        try:
            # Without another look when nothing is left, which would be an exception.
            while not self._is_paused and (incoming.pending or tls.pending()):
                data = tls.read(_RECORD_BYTES)
                if not data:
                    self._end()
                    return
                above.data_received(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end()
            return
        except ssl.SSLError:
            self.transport.abort()
            return
        # An answer of TLS itself, such as to new keys.
        self._flush()

    def _end(self) -> None:
        """Hear that the other side sends no more."""
        if self._above is not None and not self._above.eof_received():
            self.transport.close()

    def _shake(self) -> None:
        if self._is_over:
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except OSError as error:
            # With why, for the other side.
            self._flush()
            self._fail(error)
            return
        self._flush()
        self._stop_timer()
        transport = TlsTransport(self, self._tls)
        self._above = self._made(transport)
        self._above.connection_made(transport)
        self._read()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def _expire(self) -> None:
        self._fail(TimeoutError("the handshake took too long"))

    def _fail(self, error: OSError) -> None:
        self._is_over = True
        self._stop_timer()
        self.transport.close()
        self._failed(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TlsTransport(asyncio.Transport):
    """What is above a `ShortTls` writes to."""

    def __init__(self, tls: ShortTls, ssl_object: ssl.SSLObject) -> None:
        super().__init__()
        self._tls = tls
        self._below = tls.transport
        self._ssl_object = ssl_object

    def __repr__(self) -> str:
        return f"<TlsTransport over {self._below!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl_object
        return self._below.get_extra_info(name, default)

    def write(self, data: Body) -> None:
        if not self._below.is_closing():
            self._tls.write(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def pause_reading(self) -> None:
        self._tls.pause()

    def resume_reading(self) -> None:
        self._tls.resume()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def close(self) -> None:
        self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def can_write_eof(self) -> bool:
        # TLS knows no half of a connection that is closed.
        return False

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()
