"""An agent as a program, for a link of a node: one that echoes, or one that floods its node.

`python -m support.hostile_agent SOCKET WHAT`; whatever the node does, it goes on, and dials again.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable

from support.feeding import feed

from plexspaces_node.link import frames as link

VM_ID = "vm-1"
HELLO = link.encode(link.Hello(generation=link.GENERATION, vm_id=VM_ID))
_LINE = link.Log.Line(stream=link.Log.STREAM_STDOUT, level=link.Log.LEVEL_INFO, message="L" * 1000)
_HEAD = link.RequestHead(method="GET", scheme="http", authority="nobody.example", path="/")
_MORE = link.RequestHead(method="PUT", scheme="http", authority="held.example", path="/", more=True)
FLOODS = {
    "fetch": b"".join(link.encode(link.Fetch(id=n, head=_HEAD)) for n in range(500)),
    "part": b"".join(
        link.encode(link.Fetch(id=n, head=_MORE))
        + link.encode(link.Part(id=n, of_fetch=True), b"x")
        for n in range(200)
    )
    + link.encode(link.Part(id=1, of_fetch=True), b"x") * 500
    + link.encode(link.Window(id=1, of_fetch=True, bytes=1 << 62)) * 100
    + b"".join(link.encode(link.Abandon(id=n)) for n in range(200)),
    "ask": link.encode(link.Ask(id=1, to="other", type="t")) * 500,
    "delete": link.encode(link.Delete(id=1, key="key")) * 500,
    "foreign": b"".join(
        link.encode(link.Response(id=n, last=True))
        + link.encode(link.Part(id=n, last=True), b"x")
        + link.encode(link.Window(id=n, bytes=1 << 40))
        + link.encode(link.Failed(id=n))
        for n in range(1 << 50, (1 << 50) + 200)
    ),
    "leave": link.encode(link.Stopped()) * 500,
    "tell": link.encode(link.Tell(id=1, to="other", type="t"), b"x" * 100) * 500,
    "get": link.encode(link.Get(id=1, key="key")) * 500,
    "put": link.encode(link.Put(id=1, key="key"), bytes(1 << 20)),
    "hello": HELLO * 200,
    "log": link.encode(link.Log(lines=[_LINE])) * 50,
    "reply": link.encode(link.Reply(id=1 << 60)) * 500,
    "snapshot": link.encode(link.Snapshot(id=1, last=True), bytes(link.PART_BYTES)),
    "nonsense": b"\xff" * 100,
}
"""What each kind sends over and over; none of them reads what comes."""


def main() -> None:
    """Dial and do it, for ever."""
    path, what = sys.argv[1:]
    act: Callable[[socket.socket], None] = echo if what == "echo" else flooding(FLOODS[what])
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(HELLO)
            act(connection)


def echo(connection: socket.socket) -> None:
    """Answer each message with its payload."""
    reader = link.FrameReader.of_node(1 << 20)
    while data := connection.recv(1 << 16):
        for frame, body in feed(reader, data):
            if isinstance(frame, link.Invoke):
                connection.sendall(link.encode(link.Reply(id=frame.id), body))


def flooding(data: bytes) -> Callable[[socket.socket], None]:
    """Return what sends the same until the node hangs up."""

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(data)

    return flood


if __name__ == "__main__":
    main()
