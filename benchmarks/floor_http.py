"""The floor under the HTTP door: a bare echo in ASGI, in a process of its own."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import uvicorn


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    del scope
    message = await receive()
    if not message.get("more_body"):
        body = message["body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while message.get("more_body"):
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        message = await receive()
    await send({"type": "http.response.body", "body": message["body"]})


def main() -> None:
    """Serve until stdin ends; the first line on stdout is the address."""
    config = uvicorn.Config(
        _echo, http="httptools", loop="uvloop", lifespan="off", access_log=False, log_level="error"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))

    def end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end, daemon=True).start()
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
