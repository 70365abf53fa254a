"""Bytes of the link that both ends agree on: `tests/vectors/link`.

`NAME.bin` is what goes over the stream, `NAME.json` what it means: which end sends it, the longest
message, and either the frames, or that the stream is broken. Byte N of every body is N modulo 251,
so that its length says it all. Run as a module, from tests/, this writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from plexspaces_node.link import frames as link

DIRECTORY = Path(__file__).parents[1] / "vectors" / "link"
LIMIT = 1 << 20
LARGEST = 2**64 - 1

_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_FAILURE = link.Failure(
    origin=link.Failure.ORIGIN_ACTOR,
    code="größe",
    message="not today ✓ 𝄞",
    hint="try tomorrow",
    retryable=True,
)
_LINES = (
    link.Log.Line(
        stream=link.Log.STREAM_STDERR,
        level=link.Log.LEVEL_WARN,
        message="one",
        time_unix_ns=1,
        trace_id=_TRACEPARENT[3:35],
    ),
    link.Log.Line(stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message=""),
)
_HEADERS = (
    link.Header(name="content-type", value=b"text/plain"),
    link.Header(name="x-bytes", value=b"\xff\x00 "),
)
_REQUEST = link.RequestHead(
    method="POST",
    scheme="http",
    authority="hello.localhost:8080",
    path="/a?b=c",
    headers=_HEADERS,
    more=True,
)
_RESPONSE = link.ResponseHead(status=200, headers=_HEADERS)

_Frame = link.AgentFrame | link.NodeFrame


def body(size: int) -> bytes:
    """Return the body of this length."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def described(frames: Sequence[tuple[_Frame, link.Body]]) -> list[dict[str, Any]]:
    """Return what a vector says of frames; fails for a body that no vector has."""
    described = []
    for frame, came in frames:
        assert came == body(len(came))
        head = json_format.MessageToDict(frame, preserving_proto_field_name=True)
        described.append({"frame": type(frame).__name__, "head": head, "body": len(came)})
    return described


def write(directory: Path) -> None:
    """Write all of them."""
    for sender, name, frames in _whole():
        stream = b"".join(link.encode(frame, body(size)) for frame, size in frames)
        told = described([(frame, body(size)) for frame, size in frames])
        _write(directory, sender, name, stream, {"frames": told})
    for sender, name, stream in _broken():
        _write(directory, sender, name, stream, {"broken": True})


def _write(directory: Path, sender: str, name: str, stream: bytes, told: dict[str, Any]) -> None:
    text = json.dumps({"from": sender, "limit": LIMIT, **told}, indent=1, ensure_ascii=False)
    (directory / f"{sender}-{name}.json").write_text(f"{text}\n")
    (directory / f"{sender}-{name}.bin").write_bytes(stream)


def _whole() -> Iterator[tuple[str, str, list[tuple[_Frame, int]]]]:
    for frame, size in _of_agent():
        yield "agent", type(frame).__name__.lower(), [(frame, size)]
    yield "agent", "reply-failed", [(link.Reply(id=9, failure=_FAILURE), 20_000)]
    yield "agent", "reply-response", [(link.Reply(id=9, response=_RESPONSE), 1000)]
    yield "agent", "several", [*_of_agent()]
    for frame, size in _of_node():
        yield "node", type(frame).__name__.lower(), [(frame, size)]
    yield "node", "answer-failed", [(link.Answer(id=9, failure=_FAILURE), 0)]
    yield "node", "invoke-request", [(link.Invoke(id=1, timeout_ns=1, request=_REQUEST), 252)]
    yield "node", "invoke-empty", [(link.Invoke(id=1, type="e", timeout_ns=1), 0)]
    yield "node", "several", [*_of_node()]


def _of_agent() -> Iterable[tuple[_Frame, int]]:
    return [
        (link.Hello(generation=3, vm_id="vm-1", engine="wasmtime 48.0.8", application="app"), 0),
        (link.Loaded(id=1, load_ns=2, init_ns=LARGEST, missing_walls=["landlock", "seccomp"]), 0),
        (link.Reply(id=LARGEST, compute_ns=1, wait_ns=2, queue_ns=3), 20_000),
        (link.Failed(id=3, failure=_FAILURE), 0),
        (link.Snapshot(id=1, offset=1 << 20, last=True), 1000),
        (link.Stopped(id=4), 0),
        (link.Measured(id=5, guest=True, total_bytes=1 << 40, used_bytes=1), 0),
        (link.Log(lines=_LINES), 0),
        (link.Ask(id=6, to="other", type="größe", timeout_ns=10**9, invoke=1), 100),
        (link.Tell(id=7, to="other", type="", invoke=LARGEST), 1),
        (link.Get(id=8, key="key", invoke=2), 0),
        (link.Put(id=9, key="key", invoke=3), 251),
        (link.Delete(id=10, key="ключ", invoke=4), 0),
        (link.Response(id=2, head=_RESPONSE, last=True, compute_ns=1, wait_ns=2, queue_ns=3), 100),
        (link.Part(id=2, last=True), 300),
        (link.Window(id=2, bytes=1 << 17), 0),
        (link.Fetch(id=11, head=_REQUEST, timeout_ns=10**9, invoke=5), 100),
        (link.Abandon(id=11), 0),
    ]


def _of_node() -> Iterable[tuple[_Frame, int]]:
    return [
        (
            link.Welcome(
                generation=3,
                node_id="node-1",
                message_limit=LIMIT,
                refused="not you",
                time_unix_ns=10**18,
                seed=bytes(range(32)),
            ),
            0,
        ),
        (link.State(), 300),
        (
            link.Load(
                id=1,
                application="app",
                path="/artifact/a.cwasm",
                kind=link.Load.KIND_COMMAND_COMPONENT,
                env={"GREETING": "hällo"},
                args=["one", "", "three"],
                memory_bytes=1 << 33,
                state_bytes=300,
                timeout_ns=10**10,
                mailbox=1024,
                snapshot_interval_ns=10**9,
                concurrency=4,
                vcpus=2,
            ),
            0,
        ),
        (
            link.Invoke(
                id=2, sender="other", type="größe", timeout_ns=LARGEST, traceparent=_TRACEPARENT
            ),
            20_000,
        ),
        (link.Cancel(id=2), 0),
        (link.Answer(id=3, found=True), 252),
        (link.Kept(id=1, bytes=1 << 20), 0),
        (link.Stop(id=4, timeout_ns=10**9), 0),
        (link.Measure(id=5), 0),
        (link.Response(id=11, head=_RESPONSE), 0),
        (link.Part(id=11, of_fetch=True, aborted=True), 0),
        (link.Window(id=11, of_fetch=True, bytes=1), 0),
    ]


def _broken() -> Iterator[tuple[str, str, bytes]]:
    for sender in ("agent", "node"):
        yield sender, "broken-no-frame", _prefix(0, 0)
        yield sender, "broken-unknown-frame", _prefix(4, 0) + b"\xa2\x06\x01\x00"
        yield sender, "broken-head", _prefix(4, 0) + b"\xff" * 4
        yield sender, "broken-text", _prefix(9, 0) + b"\x1a\x07\x12\x05\xc3\x28abc"
        yield sender, "broken-long-head", _prefix((1 << 20) + 1, 0)
        yield sender, "broken-long-body", _prefix(0, (1 << 28) + 1)


def _prefix(head_bytes: int, body_bytes: int) -> bytes:
    return head_bytes.to_bytes(4, "little") + body_bytes.to_bytes(4, "little")


if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for old in DIRECTORY.iterdir():
        old.unlink()
    write(DIRECTORY)
