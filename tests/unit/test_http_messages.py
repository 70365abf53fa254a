"""A client's messages by HTTP: what is sent, what ends a connection, what is left to gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from plexspaces_node.client.http_messages import (
    IDLE_S,
    MOST_BYTES,
    MOST_CONNECTIONS,
    HttpMessages,
)
from plexspaces_node.client.message import Message
from plexspaces_node.client.tls import ClientTls
from plexspaces_node.client.way import Way
from plexspaces_node.errors import (
    ActorFailed,
    ActorTrapped,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    VmStartFailed,
)

TIMES = (
    b"server-timing: compute;dur=0.000002, wait;dur=1.5, queue;dur=0.000003, coordination;dur=2\r\n"
)
WAY = Way("127.0.0.1:9000", "127.0.0.1:9000")
MESSAGE = Message("calc", "add", b"12", None)


class Server:
    """Answers requests as it is told, in the order in which they come."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.connections = 0
        self.left = asyncio.Event()
        self.looks = 0
        self.address: str | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.put_nowait(head + await reader.readexactly(length))
                answering = asyncio.ensure_future(self.answers.get())
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()
                    return
                gone.cancel()
                await asyncio.wait({gone})
                writer.write(answering.result())
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            self.left.set()

    async def end(self) -> None:
        self.close_connections()
        await asyncio.gather(*self._tasks)

    def close_connections(self) -> None:
        for writer in self._writers:
            writer.close()

    def answer(self, status: int = 200, body: bytes = b"ok", head: bytes = TIMES) -> None:
        """Answer one request like this."""
        first = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n" % (status, len(body))
        self.answers.put_nowait(first + head + b"\r\n" + body)

    def look(self, address: str) -> str | None:
        self.looks += 1
        return self.address


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        server.address = f"{host}:{port}"
        yield server
        await server.end()


@pytest.fixture
async def messages(server: Server) -> AsyncIterator[HttpMessages]:
    messages = HttpMessages(WAY, find=server.look)
    yield messages
    messages.close()


async def test_messages_in_turn_use_one_connection(server: Server, messages: HttpMessages) -> None:
    """The reply's bytes, and the times to the nanosecond."""
    for _ in range(3):
        server.answer()
        result = await messages.send(Message("calc", "a/b ?é", b"12", 2.5))
        assert result is not None
        assert (result.payload, result.transport) == (b"ok", "http")
        timings = result.timings
        assert (timings.compute_ns, timings.wait_ns, timings.queue_ns) == (2, 1_500_000, 3)
        assert timings.total_ns == 3_500_005
        request = await server.requests.get()
        assert request.startswith(b"POST /apps/calc/a%2Fb%20%3F%C3%A9 HTTP/1.1\r\n")
        assert b"\r\nprefer: wait=2.500\r\n" in request
        assert request.endswith(b"\r\n\r\n12")
    assert (server.connections, server.looks) == (1, 1)


async def test_message_of_a_trace_says_so_and_learns_of_which(
    server: Server, messages: HttpMessages
) -> None:
    """The header goes along, and the response's names the trace; of a failure too."""
    named = b"traceresponse: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
    server.answer(head=TIMES + named)
    result = await messages.send(MESSAGE._replace(traceparent=traceparent))
    assert result is not None
    assert result.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert f"\r\ntraceparent: {traceparent}\r\n".encode() in await server.requests.get()
    server.answer(head=TIMES + b"traceresponse: 00-x\r\n")
    result = await messages.send(MESSAGE)
    assert result is not None
    assert result.trace_id == ""
    assert b"traceparent" not in await server.requests.get()


@pytest.mark.parametrize(
    "traceparent", ["x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y"]
)
def test_message_with_a_malformed_traceparent_is_refused(traceparent: str) -> None:
    """It would not be what the sender meant, and could be another header."""
    with pytest.raises(InvalidArgument, match="not a traceparent"):
        MESSAGE._replace(traceparent=traceparent).check()


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE._replace(payload=bytes(MOST_BYTES + 1)),
        MESSAGE._replace(type="\udcff"),
        MESSAGE._replace(type="x" * 5000),
    ],
)
async def test_message_that_goes_better_by_grpc_is_not_sent(
    server: Server, messages: HttpMessages, message: Message
) -> None:
    """A long one is no faster by HTTP, and a path cannot have every type."""
    assert await messages.send(message) is None
    assert server.connections == 0


async def test_node_without_http_is_not_looked_for_with_every_message(
    server: Server, messages: HttpMessages
) -> None:
    """Nor one at whose port nobody answers."""
    server.address = None
    for _ in range(3):
        assert await messages.send(MESSAGE) is None
    assert server.looks == 1


async def test_port_at_which_nobody_listens_is_left_to_grpc(
    server: Server, free_address: str
) -> None:
    """Nothing was sent, so it can be sent again."""
    server.address = free_address
    messages = HttpMessages(WAY, find=server.look)
    assert await messages.send(MESSAGE) is None
    assert await messages.send(MESSAGE) is None
    assert server.looks == 1


async def test_more_messages_at_a_time_than_connections_go_by_grpc(
    server: Server, messages: HttpMessages
) -> None:
    """None waits for another."""
    sent = [asyncio.create_task(messages.send(MESSAGE)) for _ in range(MOST_CONNECTIONS)]
    for _ in sent:
        await server.requests.get()
    assert await messages.send(MESSAGE) is None
    for _ in sent:
        server.answer()
    assert None not in await asyncio.gather(*sent)
    server.answer()
    assert await messages.send(MESSAGE) is not None


async def test_caller_that_cancels_closes_the_connection(
    server: Server, messages: HttpMessages
) -> None:
    """So the node knows, and removes the message from the mailbox."""
    sent = asyncio.create_task(messages.send(MESSAGE))
    await server.requests.get()
    sent.cancel()
    await server.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await sent


async def test_connection_that_ends_amid_a_message_is_told_and_not_repeated(
    server: Server, messages: HttpMessages
) -> None:
    """The message may have been handled: only its sender knows whether to repeat it."""
    sent = asyncio.create_task(messages.send(MESSAGE))
    await server.requests.get()
    server.close_connections()
    with pytest.raises(Unavailable, match=r"127.0.0.1:9000 was lost") as caught:
        await sent
    assert caught.value.hint == "check the node's own output, then try again"
    server.answer()
    assert await messages.send(MESSAGE) is not None
    assert server.connections == 2


@pytest.mark.parametrize("noise", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"])
async def test_server_that_is_no_node_is_told(
    server: Server, messages: HttpMessages, noise: bytes
) -> None:
    """What it says is not passed on."""
    server.answers.put_nowait(noise)
    with pytest.raises(Unavailable, match="not HTTP"):
        await messages.send(MESSAGE)


async def test_noise_behind_a_response_takes_nothing_from_it(
    server: Server, messages: HttpMessages
) -> None:
    """The connection is not used again, and nothing fails where nobody would hear of it."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unheard.append(what))
    for _ in range(2):
        whole = b"HTTP/1.1 200 OK\r\n" + TIMES + b"content-length: 2\r\n\r\n42"
        server.answers.put_nowait(whole + b"\0noise\r\n\r\n")
        result = await messages.send(MESSAGE)
        assert result is not None
        assert result.payload == b"42"
    assert (server.connections, unheard) == (2, [])


async def test_connection_that_was_closed_while_idle_is_not_used(
    server: Server, messages: HttpMessages
) -> None:
    """A message is only sent where somebody reads it."""
    server.answer()
    await messages.send(MESSAGE)
    server.close_connections()
    await server.left.wait()
    # What has arrived by then is noticed before this is.
    _, other = await asyncio.open_connection(*str(server.address).split(":"))
    other.close()
    server.answer()
    assert await messages.send(MESSAGE) is not None


async def test_node_that_answers_late_is_told(server: Server, messages: HttpMessages) -> None:
    """A little after the timeout, for the node's own answer says more."""
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        await messages.send(MESSAGE._replace(timeout_s=-1.99))
    await server.left.wait()


def problem(kind: str, code: str, **members: Any) -> bytes:
    """Return problem details."""
    said = {"type": f"urn:plexspaces:problem:{kind}", "detail": "said", "code": code}
    return json.dumps({"retryable": False, **said, **members}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (422, problem("failed", "no", output_base64="/w=="), ActorFailed, "said"),
        (500, problem("trapped", "unreachable"), ActorTrapped, "said"),
        (503, problem("unavailable", "unavailable", hint="wait"), Unavailable, "said"),
        (503, problem("vm_start_failed", "vm_start_failed", step="s"), VmStartFailed, "said"),
        (429, problem(*2 * ("resource_exhausted",), retry_after_s=0.2), ResourceExhausted, "said"),
        (421, problem("misdirected_request", "misdirected_request"), InvalidArgument, "said"),
        (413, b"", InvalidArgument, "a message of 2 bytes exceeds the limit of the node at"),
        (500, b"<html>", Internal, "cannot be read: b'<html>'"),
        (500, b"[]", Internal, "cannot be read"),
        (500, b"{}", Internal, "cannot be read"),
    ],
)
async def test_errors_are_those_of_grpc(
    server: Server, messages: HttpMessages, status: int, body: bytes, error: Any, said: str
) -> None:
    """With their codes, hints and output."""
    server.answer(status, body)
    with pytest.raises(error, match=said) as caught:
        await messages.send(MESSAGE)
    if error is ActorFailed:
        assert (caught.value.code, caught.value.output) == ("no", b"\xff")
    if error is Unavailable:
        assert caught.value.hint == "wait"
    if error is VmStartFailed:
        assert caught.value.step == "s"
    if error is ResourceExhausted:
        assert caught.value.retry_after_s == 0.2


async def test_reply_without_times_is_none_of_a_node(
    server: Server, messages: HttpMessages
) -> None:
    """It is not believed."""
    server.answer(head=b"")
    with pytest.raises(Internal, match="it has no times"):
        await messages.send(MESSAGE)


@pytest.mark.virtual_time
async def test_connection_that_was_idle_for_long_is_not_used(server: Server) -> None:
    """The node may be about to close it."""
    messages = HttpMessages(WAY, find=server.look)
    server.answer()
    await messages.send(MESSAGE)
    await asyncio.sleep(IDLE_S)
    server.answer()
    await messages.send(MESSAGE)
    assert server.connections == 2
    messages.close()


async def test_messages_when_the_notice_says_tls_and_the_client_has_none_then_go_by_grpc(
    server: Server,
) -> None:
    """And the reverse: a client that wants TLS sends nothing without it."""
    address = server.address
    for tls, told in ((None, f"https://{address}"), (ClientTls(), address)):
        server.address = told
        messages = HttpMessages(replace(WAY, tls=tls), find=server.look)
        assert await messages.send(MESSAGE) is None
        messages.close()
    assert server.connections == 0
