"""One request and its response on a connection: HTTP/1.1 by h11, bounded in time and size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import h11

from plexspaces_node.model import MIB
from plexspaces_node.node.outgoing.call import (
    UNBOUNDED,
    Allowance,
    CallFailed,
    Code,
    Headers,
    Piece,
)
from plexspaces_node.node.outgoing.connector import READ_BYTES, Stream
from plexspaces_node.node.outgoing.headers import passed_on
from plexspaces_node.tasks import cancel

HEAD_BYTES = 64 * 1024
"""The longest head of a response."""

REQUEST_BYTES = 1024 * MIB
"""The longest body of a request."""

RESPONSE_BYTES = 1024 * MIB
"""The longest body of a response."""

MOST_INTERIM = 16
"""How many interim responses, such as 103, may come before the response."""

PIECES_PER_TURN = 64
"""How many pieces of a body are parsed before others have their turn: a server may send each byte
as a piece of its own."""

SILENCE_S = 60.0
"""How long a server may be silent in the middle of a response."""


class Exchange:
    """A request and its response; implements `call.Response`. Used once, on the event loop.

    Attributes:
        sent_bytes: of the request's body.
        received_bytes: of the response's body.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        request_bytes: int = REQUEST_BYTES,
        response_bytes: int = RESPONSE_BYTES,
        allowance: Allowance = UNBOUNDED,
    ) -> None:
        self.stream = stream
        self._allowance = allowance
        # Until the next part of the response is read.
        self._pause_s = 0.0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._request_bytes = request_bytes
        self._response_bytes = response_bytes
        self._sending: asyncio.Task[None] | None = None
        # Why the rest of the request cannot be sent.
        self._fault: Exception | None = None
        self._ended = self._heard = False
        self.sent_bytes = self.received_bytes = 0
        self.status = 0
        self.headers: Headers = ()

    @property
    def heard(self) -> bool:
        """Whether the server has sent anything."""
        return self._heard

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is as if nothing had happened on it."""
        http = self._http
        done = http.our_state is h11.DONE and http.their_state is h11.DONE
        return done and not http.trailing_data[0] and self.stream.is_open

    def send_whole(self, head: h11.Request, body: Piece) -> None:
        """Send a request with its whole body, which is short."""
        data = self._encoded(head)
        if len(body):
            data += self._encoded(h11.Data(data=bytes(body)))
        self.sent_bytes = len(body)
        self._pause_s = self._allowance.spend(len(body))
        self.stream.writer.write(data + self._encoded(h11.EndOfMessage()))

    def send(
        self, head: h11.Request, body: AsyncIterator[Piece], progress: Callable[[], None]
    ) -> None:
        """Begin to send a request and its body, while its response may come already.

        `progress` is called after each part of it, until the head of the response is there.
        """
        self.stream.writer.write(self._encoded(head))
        sending = self._send_body(body, progress)
        self._sending = asyncio.get_running_loop().create_task(sending)

    async def read_head(self) -> None:
        """Wait for the head of the response, then kept in `status` and `headers`.

        Without a time limit. Raises `CallFailed`, and what the body of the request raises.
        """
        interim = 0
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = passed_on(list(event.headers))
                return
            if event is h11.NEED_DATA:
                await self._read()
            elif not isinstance(event, h11.InformationalResponse):
                raise self._broken_off()
            elif (interim := interim + 1) > MOST_INTERIM:
                message = f"more than {MOST_INTERIM} interim responses"
                raise CallFailed(Code.PROTOCOL_ERROR, message)

    def at_hand(self) -> tuple[bytes, bool]:
        """Return what of the body has arrived already, and whether it is whole.

        Parses `PIECES_PER_TURN` of it at most.
        """
        pieces: list[bytes] = []
        while len(pieces) < PIECES_PER_TURN and not self._ended:
            event = self._next_event()
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.EndOfMessage):
                self._ended = True
            elif isinstance(event, h11.Data):
                pieces.append(self._counted(event))
            else:
                raise self._broken_off()
        return b"".join(pieces), self._ended

    async def more(self) -> bytes:
        """Return the next bytes of the body, b"" at its end; raises `CallFailed`."""
        # Others have their turn, also if the server sends without a pause.
        pause_s, self._pause_s = self._pause_s, 0.0
        await asyncio.sleep(pause_s)
        while not self._ended:
            data, _ = self.at_hand()
            if data:
                return data
            if not self._ended:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        await self._read()
                except TimeoutError as error:
                    message = f"the server was silent for {SILENCE_S:g} s"
                    raise CallFailed(Code.CONNECTION_READ_TIMEOUT, message) from error
        return b""

    async def close(self) -> None:
        """Send no more. Idempotent."""
        if self._sending is not None:
            await cancel(self._sending)

    async def _send_body(self, body: AsyncIterator[Piece], progress: Callable[[], None]) -> None:
        writer = self.stream.writer
        try:
            async for piece in body:
                self.sent_bytes += len(piece)
                if self.sent_bytes > self._request_bytes:
                    message = f"the request is longer than {self._request_bytes} bytes"
                    raise CallFailed(Code.REQUEST_TOO_LARGE, message)
                writer.write(self._encoded(h11.Data(data=bytes(piece))))
                await writer.drain()
                if not self.status:
                    progress()
                if pause_s := self._allowance.spend(len(piece)):
                    await asyncio.sleep(pause_s)
            writer.write(self._encoded(h11.EndOfMessage()))
        except OSError:
            # The server reads no more; it may have answered before.
            pass
        except Exception as error:  # noqa: BLE001 - whoever waits for the response is told
            self._fault = error
            self.stream.close()

    def _encoded(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        try:
            return self._http.send(event) or b""
        except h11.LocalProtocolError as error:
            message = f"the request is not valid HTTP: {error}"
            raise CallFailed(Code.PROTOCOL_ERROR, message) from error

    def _next_event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            if self._fault is not None:
                raise self._fault from error
            if self.stream.reader.at_eof():
                raise self._broken_off() from error
            message = f"the response is not valid HTTP: {error}"
            raise CallFailed(Code.PROTOCOL_ERROR, message) from error

    async def _read(self) -> None:
        try:
            data = await self.stream.reader.read(READ_BYTES)
        except OSError as error:
            raise self._broken_off() from error
        self._heard = self._heard or bool(data)
        self._http.receive_data(data)

    def _counted(self, event: h11.Data) -> bytes:
        data = bytes(event.data)
        self.received_bytes += len(data)
        self._pause_s = self._allowance.spend(len(data))
        if self.received_bytes > self._response_bytes:
            message = f"the response is longer than {self._response_bytes} bytes"
            raise CallFailed(Code.RESPONSE_TOO_LARGE, message)
        return data

    def _broken_off(self) -> Exception:
        if self._fault is not None:
            return self._fault
        before = "in the middle of" if self.status else "before"
        return CallFailed(
            Code.CONNECTION_TERMINATED, f"the server closed the connection {before} its response"
        )
