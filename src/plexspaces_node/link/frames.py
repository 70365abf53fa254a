"""The link between node and agent: its frames, and how they are put on a byte stream.

The frames are the messages of `proto/plexspaces/link/v3/link.proto`, which documents them. There is
one stream per machine. A frame is two little-endian u32, the lengths of head and body, then the
head, a `FromAgent` or a `FromNode`, then the body: raw bytes that are not copied into a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    VmStartFailed,
    WrongState,
    platform_error,
)
from plexspaces_node.link.generated.link_pb2 import Abandon as Abandon
from plexspaces_node.link.generated.link_pb2 import Answer as Answer
from plexspaces_node.link.generated.link_pb2 import Ask as Ask
from plexspaces_node.link.generated.link_pb2 import Cancel as Cancel
from plexspaces_node.link.generated.link_pb2 import Delete as Delete
from plexspaces_node.link.generated.link_pb2 import Failed as Failed
from plexspaces_node.link.generated.link_pb2 import Failure as Failure
from plexspaces_node.link.generated.link_pb2 import Fetch as Fetch
from plexspaces_node.link.generated.link_pb2 import FromAgent as FromAgent
from plexspaces_node.link.generated.link_pb2 import FromNode as FromNode
from plexspaces_node.link.generated.link_pb2 import Get as Get
from plexspaces_node.link.generated.link_pb2 import Header as Header
from plexspaces_node.link.generated.link_pb2 import Hello as Hello
from plexspaces_node.link.generated.link_pb2 import Invoke as Invoke
from plexspaces_node.link.generated.link_pb2 import Kept as Kept
from plexspaces_node.link.generated.link_pb2 import Load as Load
from plexspaces_node.link.generated.link_pb2 import Loaded as Loaded
from plexspaces_node.link.generated.link_pb2 import Log as Log
from plexspaces_node.link.generated.link_pb2 import Measure as Measure
from plexspaces_node.link.generated.link_pb2 import Measured as Measured
from plexspaces_node.link.generated.link_pb2 import Part as Part
from plexspaces_node.link.generated.link_pb2 import Put as Put
from plexspaces_node.link.generated.link_pb2 import Reply as Reply
from plexspaces_node.link.generated.link_pb2 import RequestHead as RequestHead
from plexspaces_node.link.generated.link_pb2 import Response as Response
from plexspaces_node.link.generated.link_pb2 import ResponseHead as ResponseHead
from plexspaces_node.link.generated.link_pb2 import Snapshot as Snapshot
from plexspaces_node.link.generated.link_pb2 import State as State
from plexspaces_node.link.generated.link_pb2 import Stop as Stop
from plexspaces_node.link.generated.link_pb2 import Stopped as Stopped
from plexspaces_node.link.generated.link_pb2 import Tell as Tell
from plexspaces_node.link.generated.link_pb2 import Welcome as Welcome
from plexspaces_node.link.generated.link_pb2 import Window as Window

GENERATION = 3
"""Raised when the two ends could no longer understand each other; another one is refused at the
handshake."""

HEAD_LIMIT_BYTES = 1024 * 1024
"""The longest head of a frame."""

PART_BYTES = 1024 * 1024
"""The longest part of a state."""

TEXT_BYTES = 16 * 1024
"""The longest text of an error or a log line; a longer one is cut and marked."""

CODE_BYTES = 256
"""The longest code of an actor's error, and the longest type of a message."""

AGENT_ERRORS = frozenset(
    error.code
    for error in (
        DeadlineExceeded,
        Internal,
        InvalidArgument,
        ResourceExhausted,
        Unavailable,
        WrongState,
    )
)
"""The codes of the platform's errors that an agent has reason to report."""

WINDOW_BYTES = 256 * 1024
"""How much of an HTTP body may be sent before its receiver allows more; the longest part of one."""

PREFIX_BYTES = 8
"""The two lengths."""

Body: TypeAlias = bytes | bytearray | memoryview
"""A frame's body. Nobody modifies one, whichever type it has."""

AgentFrame: TypeAlias = (
    Hello
    | Loaded
    | Reply
    | Failed
    | Snapshot
    | Stopped
    | Measured
    | Log
    | Ask
    | Tell
    | Get
    | Put
    | Delete
    | Response
    | Part
    | Window
    | Fetch
    | Abandon
)
NodeFrame: TypeAlias = (
    Welcome
    | State
    | Load
    | Invoke
    | Cancel
    | Answer
    | Kept
    | Stop
    | Measure
    | Response
    | Part
    | Window
)
HttpFrame: TypeAlias = Response | Part | Window | Fetch | Abandon
"""What an agent sends of HTTP requests and their responses."""

HostCall: TypeAlias = Ask | Tell | Get | Put | Delete
"""An agent's request to its node; answered by `Answer`."""

_F = TypeVar("_F", AgentFrame, NodeFrame)

_LENGTHS = struct.Struct("<II")
_SCRATCH_BYTES = 16 * 1024
_MARK = " …"
_MESSAGES = frozenset({"reply", "ask", "tell", "put", "invoke", "answer"})
_PARTS = {
    "snapshot": PART_BYTES,
    "state": PART_BYTES,
    "response": WINDOW_BYTES,
    "part": WINDOW_BYTES,
    "fetch": WINDOW_BYTES,
}
_LENGTH_DELIMITED = 2


def _tag_of(number: int) -> bytes:
    """Return how an envelope begins: the field number of this kind of frame, as a varint."""
    tag = number << 3 | _LENGTH_DELIMITED
    return bytes((tag,)) if tag <= 0x7F else bytes((tag & 0x7F | 0x80, tag >> 7))


# Frames that go both ways have one number.
_TAGS: dict[type[AgentFrame | NodeFrame], bytes] = {
    kind: _tag_of(envelope.DESCRIPTOR.fields_by_name[kind.__name__.lower()].number)
    for envelope, kinds in ((FromAgent, AgentFrame.__args__), (FromNode, NodeFrame.__args__))
    for kind in kinds
}


class LinkBroken(Exception):
    """The peer sent something that is not a frame; the connection cannot continue."""


class OtherGeneration(LinkBroken):
    """The peer speaks a generation of the link from before frames had heads and bodies."""


def head_of(frame: AgentFrame | NodeFrame, body_bytes: int = 0) -> bytes:
    """Return the bytes of a frame up to its body, which follows on the stream."""
    # This is what an envelope around the frame would be; making one takes longer than all the rest.
    inner = frame.SerializeToString()
    size = len(inner)
    outer = bytearray(_TAGS[type(frame)])
    while size > 0x7F:
        outer.append(size & 0x7F | 0x80)
        size >>= 7
    outer.append(size)
    return _LENGTHS.pack(len(outer) + len(inner), body_bytes) + outer + inner


def encode(frame: AgentFrame | NodeFrame, body: Body = b"") -> bytes:
    """Return all the bytes of a frame, in a copy."""
    return head_of(frame, len(body)) + body


class FrameReader(Generic[_F]):
    """Cuts the byte stream of one peer into frames.

    Bytes are read into `room` and announced to `filled`. An incomplete body is read directly into
    its final place, so that each byte is copied at most once. Holds at most one frame beyond what
    was received last. Not thread-safe.

    Attributes:
        head_limit: the longest head that is accepted.
        message_limit: the longest body of a message that is accepted.
    """

    def __init__(
        self,
        envelope: type[FromAgent | FromNode],
        *,
        message_limit: int,
        head_limit: int,
    ) -> None:
        self.head_limit = head_limit
        self.message_limit = message_limit
        self._envelope = envelope
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._start = self._end = 0
        # The current body, if it is known to be incomplete.
        self._frame: _F | None = None
        self._body = bytearray()
        self._had = 0

    @classmethod
    def of_agent(
        cls, message_limit: int, *, head_limit: int = HEAD_LIMIT_BYTES
    ) -> FrameReader[AgentFrame]:
        """Create the reader of what an agent sends."""
        return FrameReader[AgentFrame](
            FromAgent, message_limit=message_limit, head_limit=head_limit
        )

    @classmethod
    def of_node(
        cls, message_limit: int, *, head_limit: int = HEAD_LIMIT_BYTES
    ) -> FrameReader[NodeFrame]:
        """Create the reader of what a node sends."""
        return FrameReader[NodeFrame](FromNode, message_limit=message_limit, head_limit=head_limit)

    @property
    def unfinished(self) -> int:
        """The number of bytes held of an incomplete frame."""
        return self._had + self._end - self._start

    def room(self) -> memoryview:
        """Return where to read to next: at least one byte long, and valid until `filled`."""
        if self._frame is not None:
            return memoryview(self._body)[self._had :]
        if self._end:
            return self._scratch[self._end :]
        return self._scratch

    def filled(self, count: int) -> Iterator[tuple[_F, Body]]:
        """Process this many new bytes in `room`; yield the frames that are now complete, in order.

        Raises `LinkBroken` after them. After that, or if not all frames are consumed, the reader
        must not be used again.
        """
        if self._frame is not None:
            self._had += count
            if self._had == len(self._body):
                whole = self._frame, self._body
                self._frame, self._body, self._had = None, bytearray(), 0
                yield whole
            return
        self._end += count
        while (frame := self._next()) is not None:
            yield frame
        if self._start < self._end:
            self._make_room()
        else:
            self._start = self._end = 0
            if len(self._scratch) > _SCRATCH_BYTES:
                self._scratch = memoryview(bytearray(_SCRATCH_BYTES))

    def _next(self) -> tuple[_F, Body] | None:
        scratch, start = self._scratch, self._start
        if self._end - start < PREFIX_BYTES:
            return None
        head_bytes, body_bytes = _LENGTHS.unpack_from(scratch, start)
        if head_bytes > self.head_limit or body_bytes > self.message_limit:
            self._check_lengths(head_bytes, body_bytes)
        start += PREFIX_BYTES
        if self._end - start < head_bytes:
            return None
        frame = self._decoded(scratch[start : start + head_bytes], body_bytes)
        start += head_bytes
        self._start = end = start + body_bytes
        if end <= self._end:
            return frame, bytes(scratch[start:end]) if body_bytes else b""
        self._start = self._end
        here = self._end - start
        self._frame, self._body, self._had = frame, bytearray(body_bytes), here
        self._body[:here] = scratch[start : self._end]
        return None

    def _check_lengths(self, head_bytes: int, body_bytes: int) -> None:
        """Raise for lengths that no frame has; a part of a state can be longer than a message."""
        longest = max(self.message_limit, PART_BYTES)
        if head_bytes > self.head_limit or body_bytes > longest:
            first = bytes(self._scratch[self._start : self._start + PREFIX_BYTES])
            if _is_of_an_array(first):
                raise OtherGeneration(f"generation {GENERATION - 1} or before")
            what, size, limit = ("head", head_bytes, self.head_limit)
            if head_bytes <= self.head_limit:
                what, size, limit = ("body", body_bytes, longest)
            raise LinkBroken(f"a {what} of {size} bytes is over the limit of {limit}")

    def _decoded(self, head: memoryview, body_bytes: int) -> _F:
        try:
            envelope = self._envelope.FromString(bytes(head))
        except DecodeError as error:
            raise LinkBroken(f"not a frame: {error}") from error
        kind = envelope.WhichOneof("frame")
        if kind is None:
            raise LinkBroken("not a frame that this version knows")
        if body_bytes:
            limit = self.message_limit if kind in _MESSAGES else _PARTS.get(kind, 0)
            if body_bytes > limit:
                raise LinkBroken(f"a {kind} with a body of {body_bytes} bytes, at most {limit}")
        frame: _F = getattr(envelope, kind)
        return frame

    def _make_room(self) -> None:
        """Make room in the scratch buffer for the missing part of the current head."""
        had = self._end - self._start
        wanted = PREFIX_BYTES
        if had >= PREFIX_BYTES:
            wanted += _LENGTHS.unpack_from(self._scratch, self._start)[0]
        if self._start + wanted > len(self._scratch):
            old = self._scratch[self._start : self._end]
            scratch = self._scratch
            if wanted > len(scratch):
                scratch = memoryview(bytearray(wanted))
            scratch[:had] = old
            self._scratch, self._start, self._end = scratch, 0, had


def _is_of_an_array(first: bytes) -> bool:
    """Return whether a stream begins as before generation 3: a length, an array, the name Hello."""
    return first[4] & 0xF0 == 0x90 and first[5:] == b"\xa5He"


def failure_of(error: PlexSpacesError | ActorError) -> Failure:
    """Convert an error to its form on the link."""
    hint = cut(error.hint or "", TEXT_BYTES)
    message = cut(error.message, TEXT_BYTES)
    if isinstance(error, ActorError):
        trapped = isinstance(error, ActorTrapped)
        return Failure(
            origin=Failure.ORIGIN_TRAP if trapped else Failure.ORIGIN_ACTOR,
            code=cut(error.code, CODE_BYTES),
            message=message,
            hint=hint,
            retryable=error.retryable,
        )
    return Failure(
        origin=Failure.ORIGIN_PLATFORM,
        code=error.code,
        message=message,
        hint=hint,
        retryable=error.retryable,
        step=error.step if isinstance(error, VmStartFailed) else "",
    )


def error_of(failure: Failure) -> PlexSpacesError | ActorError:
    """Convert an error from its form on the link.

    An agent speaks for its application: an error of the platform that it has no reason to report,
    such as that a caller may not do something, becomes `Internal`.
    """
    # An agent may send more than users are shown.
    hint, message = cut(failure.hint, TEXT_BYTES) or None, cut(failure.message, TEXT_BYTES)
    code = cut(failure.code, CODE_BYTES)
    if failure.origin == Failure.ORIGIN_TRAP:
        cls: type[ActorError] = ActorTrapped
    elif failure.origin == Failure.ORIGIN_ACTOR:
        cls = ActorFailed
    elif code in AGENT_ERRORS:
        return platform_error(code, message, hint=hint)
    else:
        return Internal(f"{message} (the agent says {code!r})", hint=hint)
    return cls(message, code=code, retryable=failure.retryable, hint=hint)


def cut(text: str, limit_bytes: int) -> str:
    """Return the text, or its beginning and a mark if it is longer than this many bytes.

    Anything that is not Unicode text, such as half of a surrogate pair, is replaced.
    """
    if len(text) <= limit_bytes and text.isascii():
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > limit_bytes:
        encoded = encoded[: limit_bytes - len(_MARK.encode())]
        return encoded.decode("utf-8", "ignore") + _MARK
    return encoded.decode()
