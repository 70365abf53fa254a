"""The link's frames and framing."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import link_vectors
from support.feeding import feed

from plexspaces_node.errors import PLATFORM_ERRORS, ActorFailed, ActorTrapped
from plexspaces_node.link import frames as link

LIMIT = 64 * 1024
IDS = st.integers(0, 2**64 - 1)
BODIES = st.binary(max_size=300) | st.builds(bytes, st.integers(0, LIMIT))
FAILURES = st.none() | st.builds(
    link.Failure,
    origin=st.sampled_from([1, 2, 3]),
    code=st.text(),
    message=st.text(),
    retryable=st.booleans(),
)
NO_BODY = st.just(b"")
FROM_AGENT = st.one_of(
    st.tuples(st.builds(link.Hello, generation=st.integers(0, 9), vm_id=st.text()), NO_BODY),
    st.tuples(st.builds(link.Reply, id=IDS, failure=FAILURES, compute_ns=IDS), BODIES),
    st.tuples(st.builds(link.Ask, id=IDS, to=st.text(), type=st.text()), BODIES),
    st.tuples(st.builds(link.Put, id=IDS, key=st.text()), BODIES),
    st.tuples(st.builds(link.Snapshot, id=IDS, offset=IDS, last=st.booleans()), BODIES),
    st.tuples(
        st.builds(
            link.Log,
            lines=st.lists(st.builds(link.Log.Line, message=st.text(), stream=st.integers(0, 4))),
        ),
        NO_BODY,
    ),
)


def read(
    reader: link.FrameReader[link.AgentFrame], stream: bytes, step: int
) -> list[tuple[link.AgentFrame, bytes]]:
    """Read a stream that comes in pieces, as a socket hands them over."""
    frames = []
    for at in range(0, len(stream), step):
        frames += feed(reader, stream[at : at + step])
    return [(frame, bytes(body)) for frame, body in frames]


@given(st.lists(FROM_AGENT, max_size=8), st.integers(1, 64) | st.integers(1, LIMIT))
def test_frames_cut_anywhere_arrive_whole_and_in_order(
    frames: list[tuple[link.AgentFrame, bytes]], step: int
) -> None:
    """However the stream is chopped, the same frames come out, and nothing is left."""
    stream = b"".join(link.encode(frame, body) for frame, body in frames)
    reader = link.FrameReader.of_agent(LIMIT)
    assert read(reader, stream, step) == frames
    assert reader.unfinished == 0


@given(st.lists(st.binary(max_size=200) | st.integers(0, 2**32 - 1), max_size=20))
def test_garbage_is_refused_and_never_crashes(pieces: list[bytes | int]) -> None:
    """Bytes that are no frame raise `LinkBroken` and nothing else, however they come."""
    agent, node = link.FrameReader.of_agent(1000), link.FrameReader.of_node(1000)
    for read in (partial(feed, agent), partial(feed, node)):
        with contextlib.suppress(link.LinkBroken):
            for piece in pieces:
                # Lengths, so that it is not the first of them that is refused each time.
                data = piece if isinstance(piece, bytes) else (piece % 50).to_bytes(4, "little")
                read(data)
    assert max(agent.unfinished, node.unfinished) <= 2 * link.PART_BYTES


@given(st.data())
def test_damaged_frames_are_refused_or_frames(data: st.DataObject) -> None:
    """A frame with a byte changed is another frame, or raises `LinkBroken`."""
    frame, body = data.draw(FROM_AGENT)
    stream = bytearray(link.encode(frame, body[:300]))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(link.LinkBroken):
        feed(link.FrameReader.of_agent(1000), stream)


def test_frames_before_what_is_none_are_still_frames() -> None:
    """What was said before nonsense was said, though both came at once."""
    reader = link.FrameReader.of_agent(LIMIT)
    stream = link.encode(link.Reply(id=1), b"body") + b"\xff" * 8
    reader.room()[: len(stream)] = stream
    frames = reader.filled(len(stream))
    assert next(frames) == (link.Reply(id=1), b"body")
    with pytest.raises(link.LinkBroken):
        next(frames)


@pytest.mark.parametrize("step", [1000, 100_000, 1 << 22])
def test_large_body_is_copied_once(step: int) -> None:
    """A body stays where it was read to: receiving it takes its length of memory, and no more."""
    size = 16 << 20
    head = link.head_of(link.Reply(id=1), size)
    reader = link.FrameReader.of_agent(size)
    piece = bytes(step)
    tracemalloc.start()
    try:
        assert feed(reader, head) == []
        left = size
        while left > step:
            assert feed(reader, piece) == []
            left -= step
        [(_, body)] = feed(reader, piece[:left])
        assert len(body) == size
        assert tracemalloc.get_traced_memory()[1] < size + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        (link.HEAD_LIMIT_BYTES + 1, 0, "a head of 1048577 bytes is over the limit"),
        (0, link.PART_BYTES + 1, "a body of 1048577 bytes is over the limit of 1048576"),
        (2**32 - 1, 2**32 - 1, "a head of 4294967295 bytes"),
    ],
)
def test_frame_over_the_limit_is_refused_before_it_is_read(head: int, body: int, why: str) -> None:
    """A length beyond the bound ends the connection without waiting for the bytes."""
    lengths = head.to_bytes(4, "little") + body.to_bytes(4, "little")
    with pytest.raises(link.LinkBroken, match=why):
        feed(link.FrameReader.of_agent(1000), lengths)


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (link.Get(id=1, key="k"), 1),
        (link.Hello(generation=3), 1),
        (link.Reply(id=1), 1001),
        (link.Snapshot(id=1), link.PART_BYTES + 1),
    ],
)
def test_body_that_a_frame_cannot_have_is_refused(frame: link.AgentFrame, size: int) -> None:
    """Only messages and parts of a state have bodies, and each has a limit of its own."""
    with pytest.raises(link.LinkBroken):
        feed(link.FrameReader.of_agent(1000), link.head_of(frame, size))


def test_part_of_a_state_may_be_longer_than_a_message() -> None:
    """How long a message may be is no bound on a state."""
    part = bytes(link.PART_BYTES)
    [(_, body)] = feed(link.FrameReader.of_agent(1), link.encode(link.Snapshot(id=1), part))
    assert body == part


@pytest.mark.parametrize("generation", [1, 2])
def test_agent_from_before_heads_and_bodies_is_told_from_its_first_bytes(generation: int) -> None:
    """It began with a length and a msgpack array whose first item is the frame's name."""
    array = b"\x95\xa5Hello" + bytes([generation]) + b"\xa4vm-1\xafwasmtime 50.0.1\xa0"
    stream = len(array).to_bytes(4, "little") + array
    with pytest.raises(link.OtherGeneration, match="generation 2 or before"):
        feed(link.FrameReader.of_agent(1 << 28), stream)


@pytest.mark.parametrize("cls", [e for e in PLATFORM_ERRORS if e.code in link.AGENT_ERRORS])
def test_platform_error_survives_the_link(cls: type[Exception]) -> None:
    """Class, message and hint come out as they went in."""
    back = link.error_of(link.failure_of(cls("m", hint="h")))  # type: ignore[arg-type, call-arg]
    assert type(back) is cls
    assert (str(back), back.hint) == ("m", "h")


@pytest.mark.parametrize("cls", [ActorFailed, ActorTrapped])
def test_actor_error_survives_the_link(cls: type[ActorFailed]) -> None:
    """An actor's error stays an actor's error, with its own code."""
    back = link.error_of(link.failure_of(cls("m", code="c", retryable=True, hint="h")))
    assert type(back) is cls
    assert (back.message, back.code, back.retryable, back.hint) == ("m", "c", True, "h")


@given(st.text(st.characters(), max_size=40), st.integers(8, 100))
def test_text_is_cut_to_what_a_frame_may_carry(text: str, limit: int) -> None:
    """A text within the bound is whole; what is no Unicode is replaced; the rest has a mark."""
    cut = link.cut(text, limit)
    encoded = text.encode("utf-8", "replace")
    assert len(cut.encode()) <= limit
    assert cut == encoded.decode() if len(encoded) <= limit else cut.endswith(" …")


@pytest.mark.parametrize("name", sorted(p.stem for p in link_vectors.DIRECTORY.glob("*.json")))
def test_vector_is_read_and_written_as_it_stands(name: str) -> None:
    """The agent's tests read the same files: both ends agree on every byte."""
    vector = json.loads((link_vectors.DIRECTORY / f"{name}.json").read_text())
    stream = (link_vectors.DIRECTORY / f"{name}.bin").read_bytes()
    by = "of_agent" if vector["from"] == "agent" else "of_node"
    reader: link.FrameReader[link.AgentFrame] = getattr(link.FrameReader, by)(vector["limit"])
    if "broken" in vector:
        with pytest.raises(link.LinkBroken):
            feed(reader, stream)
        return
    frames = feed(reader, stream)
    assert link_vectors.described(frames) == vector["frames"]
    assert b"".join(link.encode(frame, body) for frame, body in frames) == stream


def test_vectors_are_those_that_the_script_makes(tmp_path: Path) -> None:
    """`python -m support.link_vectors` in tests/ writes them; nobody edits them."""
    link_vectors.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in link_vectors.DIRECTORY.iterdir()}
    assert len(made) > 2 * 20
