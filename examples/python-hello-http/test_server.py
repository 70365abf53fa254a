"""Plain pytest, without a node and without WebAssembly: `pytest`."""

from __future__ import annotations

import asyncio
from typing import Any

from server import app


def answered(path: str, *, query: bytes = b"", body: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body with which a request is answered."""
    method = "GET" if body is None else "POST"
    scope = {"method": method, "path": path, "query_string": query}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(event.get("body", b"") for event in sent)


def test_home_greets_by_name() -> None:
    assert answered("/", query=b"name=Ada") == (200, b"Hello, Ada!\n")
    assert answered("/") == (200, b"Hello, world!\n")


def test_echo_answers_with_the_body() -> None:
    assert answered("/echo", body=b"some text") == (200, b"some text")


def test_anything_else_is_not_found() -> None:
    assert answered("/other")[0] == 404
