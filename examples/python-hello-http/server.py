"""python-hello-http: an HTTP component for a PlexSpaces node. README.md says what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request: an ASGI application."""
    match scope["method"], scope["path"]:
        case "GET", "/":
            await respond(send, greeting(scope["query_string"]).encode())
        case "POST", "/echo":
            await respond(send, chunks(receive))
        case "GET", "/events":
            await respond(send, ticks(), kind=b"text/event-stream")
        case _:
            await respond(send, b"nothing here\n", status=404)


def greeting(query: bytes) -> str:
    """Greet by name: ``?name=Ada``."""
    [name, *_] = parse_qs(query.decode()).get("name", ["world"])
    return f"Hello, {name}!\n"


async def chunks(receive: Any) -> AsyncIterator[bytes]:
    """Yield the body as it comes."""
    more = True
    while more:
        event = await receive()
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def ticks() -> AsyncIterator[bytes]:
    """Yield three server-sent events, one a second."""
    for number in (1, 2, 3):
        if number > 1:
            await asyncio.sleep(1)
        yield f"data: tick {number}\n\n".encode()


async def respond(
    send: Any,
    body: bytes | AsyncIterator[bytes],
    *,
    status: int = 200,
    kind: bytes = b"text/plain; charset=utf-8",
) -> None:
    """Send a response whose body is bytes, or comes in parts."""
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return
    async for part in body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})
