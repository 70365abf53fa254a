"""The link between node and agent: its frames and their framing on a byte stream.

One stream a machine. A frame is a little-endian u32 length and a msgpack array whose first
element is the frame's tag. Requests carry an id chosen by the sender of the request, so that many
are in flight at once; ids of the two directions are separate. This file is imported by the agent
inside the Vm, at every start: the standard library's smallest modules only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    PlexSpacesError,
    VmStartFailed,
    platform_error,
)
from plexspaces_node.wire.pack import Malformed, Record, Size, nestable, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GENERATION = 2
"""Changes when the two ends could no longer understand each other; refused at the handshake."""

FRAME_OVERHEAD_BYTES = 64 * 1024
"""What a frame may be longer than the message it carries."""

STATE_LIMIT_BYTES = 2 * 1024 * 1024
"""The most a snapshot can be: what wasmtime hands over as one `list<u8>`, less a margin."""

TEXT_BYTES = 16 * 1024
"""The longest text of an error or a line of the log; a longer one is cut and marked."""

CODE_BYTES = 256
"""The longest code of an actor's error, and the longest type of a message."""

_LENGTH = struct.Struct("<I")


class Frame(Record):
    """Base of every frame: an array of the class's name and the values of its fields."""


@nestable
class LinkFailure(Record):
    """An error on the link.

    Attributes:
        origin: "platform", "actor" (its error record) or "trap".
        code: a platform error's code, or the actor's own.
    """

    origin: str
    code: str
    message: str
    hint: str | None = None
    retryable: bool = False
    step: str = ""


# ---- agent to node -------------------------------------------------------------------------


class Hello(Frame):
    """First frame of every connection.

    Attributes:
        vm_id: of the machine; "" from a guest that was not told, whom the node has dialled.
        application: name of the application the agent already runs, after a redial; else "".
        engine: the runtime and its version, for example "wasmtime 50.0.1".
    """

    generation: int
    vm_id: str
    engine: str
    application: str = ""


class Loaded(Frame):
    """The actor of a `Load` answers messages now."""

    id: int
    load_ns: int
    init_ns: int


class Reply(Frame):
    """The answer to an `Invoke`: a payload, or a failure.

    Attributes:
        compute_ns: wall time inside the actor's own code, host waits subtracted.
        wait_ns: time the actor waited inside host calls.
        queue_ns: time the message lay in the mailbox.
    """

    id: int
    payload: bytes
    failure: LinkFailure | None
    compute_ns: int
    wait_ns: int
    queue_ns: int


class Failed(Frame):
    """The answer to a `Load`, `Stop` or `Measure` that did not succeed."""

    id: int
    failure: LinkFailure


class State(Frame):
    """A snapshot of the actor's state, sent when it may have changed since the last."""

    state: bytes


class Stopped(Frame):
    """The agent's goodbye: the answer to `Stop` and its last frame."""

    id: int


class Measured(Frame):
    """The answer to `Measure`: the memory of the guest, or of the agent where there is no guest.

    Attributes:
        guest: it is a whole guest's; otherwise that of the agent's process alone.
        total_bytes: what there is, for a process what its limit allows; 0 for no limit.
        used_bytes: what of it cannot be had; for a process what it has allocated.
        available_bytes: what more can be had; 0 where there is no limit.
    """

    id: int
    guest: bool
    total_bytes: Size
    used_bytes: Size
    available_bytes: Size


class Log(Frame):
    """One line the actor logged or wrote.

    Attributes:
        stream: "log", "stdout", "stderr" or "agent" (what the runtime says about the actor).
        level: "trace", "debug", "info", "warn" or "error".
        time_ns: since the epoch, by the agent's clock.
    """

    stream: str
    level: str
    message: str
    time_ns: int


class Ask(Frame):
    """The actor asks another application and waits; answered by `Answer`."""

    id: int
    to: str
    type: str
    payload: bytes
    timeout_ns: int


class Tell(Frame):
    """The actor sends a message to another application; answered once that one has queued it."""

    id: int
    to: str
    type: str
    payload: bytes


class Get(Frame):
    """The actor reads a key of its store; `Answer.payload` is None when there is no such key."""

    id: int
    key: str


class Put(Frame):
    """The actor writes a key of its store; with value None it deletes the key."""

    id: int
    key: str
    value: bytes | None


# ---- node to agent -------------------------------------------------------------------------


class Welcome(Frame):
    """The node's answer to `Hello`.

    Attributes:
        refused: why the node will not talk to this agent, or "".
        time_ns: since the epoch, by the node's clock; 0 when it does not say.
        seed: fresh random bytes, for a guest that may be a copy of another; b"" for none.
    """

    generation: int
    node_id: str
    message_limit: int
    refused: str = ""
    time_ns: int = 0
    seed: bytes = b""


class Load(Frame):
    """Load an artifact and start its actor.

    Attributes:
        path: of the compiled artifact, as the agent opens it.
        kind: an `ArtifactKind`.
        memory_bytes: the most linear memory the actor may use.
        state: the snapshot to start from, b"" for a first start.
        timeout_ns: for instantiation and init together.
        snapshot_interval_ns: the longest a changed state stays unsaved while messages flow.
    """

    id: int
    application: str
    path: str
    kind: str
    env: dict[str, str]
    memory_bytes: int
    state: bytes
    timeout_ns: int
    mailbox: int
    snapshot_interval_ns: int


class Invoke(Frame):
    """Hand a message to the actor; answered by `Reply`."""

    id: int
    sender: str
    type: str
    payload: bytes
    timeout_ns: int


class Cancel(Frame):
    """Nobody waits for this `Invoke` any more: do not handle it if it still lies in the mailbox.

    It is answered by its `Reply` all the same.
    """

    id: int


class Answer(Frame):
    """The answer to `Ask`, `Tell`, `Get` or `Put`."""

    id: int
    payload: bytes | None
    failure: LinkFailure | None = None


class Stop(Frame):
    """Finish the message at hand, snapshot, shut the actor down, say goodbye and end."""

    id: int
    timeout_ns: int


class Measure(Frame):
    """Say how much memory is in use; answered by `Measured`."""

    id: int


FromAgent = (
    Hello | Loaded | Reply | Failed | State | Stopped | Measured | Log | Ask | Tell | Get | Put
)
FromNode = Welcome | Load | Invoke | Cancel | Answer | Stop | Measure

_FROM_AGENT: dict[str, type[FromAgent]] = {kind.__name__: kind for kind in FromAgent.__args__}
_FROM_NODE: dict[str, type[FromNode]] = {kind.__name__: kind for kind in FromNode.__args__}


class LinkBroken(Exception):
    """The peer sent something that is not a frame; the connection cannot go on."""


def encode(frame: FromAgent | FromNode) -> bytes:
    """Return the frame's bytes as they go on the stream, length first."""
    buffer = bytearray(4)
    pack([type(frame).__name__, *frame.values()], buffer)
    _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
    return bytes(buffer)


def frame_limit(message_limit: int) -> int:
    """The longest frame allowed, given the longest message: a snapshot may be longer than one."""
    return max(message_limit, STATE_LIMIT_BYTES) + FRAME_OVERHEAD_BYTES


class FrameBuffer:
    """Cuts a byte stream into the bodies of frames.

    Holds at most one frame's bytes beyond what was fed last. Not for use by two threads at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add what was read; return the bodies that are now whole, in order.

        Raises `LinkBroken` for a length over the limit.
        """
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        size = len(buffer)
        while size - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self._limit:
                raise LinkBroken(f"a frame of {length} bytes is over the limit of {self._limit}")
            end = start + 4 + length
            if end > size:
                break
            bodies.append(bytes(memoryview(buffer)[start + 4 : end]))
            start = end
        if start:
            del buffer[:start]
        return bodies


def decode_from_agent(body: bytes) -> FromAgent:
    """Decode a frame the agent sent; raises `LinkBroken` when it is none."""
    frame: FromAgent = _decode(body, _FROM_AGENT, "an agent", items=_AGENT_ITEMS)
    return frame


def decode_from_node(body: bytes) -> FromNode:
    """Decode a frame the node sent; raises `LinkBroken` when it is none."""
    frame: FromNode = _decode(body, _FROM_NODE, "a node", items=_NODE_ITEMS)
    return frame


_AGENT_ITEMS = 64
"""Of a frame's arrays: an agent's has at most fourteen. Whoever is in the machine chooses them."""
_NODE_ITEMS = 1 << 20
"""The same of the node's, one of which carries an application's environment."""


def _decode(body: bytes, kinds: Mapping[str, type[Frame]], sender: str, *, items: int) -> Any:
    try:
        array = unpack(body, items=items)
        if type(array) is not list or not array or type(array[0]) is not str:
            raise Malformed("no array that begins with a name")
        kind = kinds.get(array[0])
        if kind is None:
            raise Malformed(f"no frame is named {array[0][:CODE_BYTES]!r}")
        return kind.of(array[1:])
    except Malformed as error:
        raise LinkBroken(f"not a frame of {sender}: {error}") from error


def failure_of(error: PlexSpacesError | ActorError) -> LinkFailure:
    """Turn an error into what the link carries."""
    if isinstance(error, ActorError):
        origin = "trap" if isinstance(error, ActorTrapped) else "actor"
        code, message = cut(error.code, CODE_BYTES), cut(error.message, TEXT_BYTES)
        return LinkFailure(origin, code, message, error.hint, error.retryable)
    step = error.step if isinstance(error, VmStartFailed) else ""
    message = cut(error.message, TEXT_BYTES)
    return LinkFailure("platform", error.code, message, error.hint, error.retryable, step)


def cut(text: str, limit_bytes: int) -> str:
    """Return the text, or its beginning and a mark when it is longer than so many bytes."""
    if len(text) <= limit_bytes // 4:
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - 4].decode("utf-8", "ignore") + " …"


def error_of(failure: LinkFailure) -> PlexSpacesError | ActorError:
    """Turn what the link carried back into the error it was."""
    if failure.origin == "platform":
        return platform_error(failure.code, failure.message, hint=failure.hint, step=failure.step)
    cls = ActorTrapped if failure.origin == "trap" else ActorFailed
    return cls(failure.message, code=failure.code, retryable=failure.retryable, hint=failure.hint)
