"""The link's frames and framing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.errors import PLATFORM_ERRORS, ActorFailed, ActorTrapped, VmStartFailed
from plexspaces_node.wire import link
from plexspaces_node.wire.pack import pack

FAILURES = st.none() | st.builds(
    link.LinkFailure, st.sampled_from(["platform", "actor", "trap"]), st.text(), st.text()
)
COUNTS = st.integers(0, 2**63 - 1)
FROM_AGENT = st.one_of(
    st.builds(link.Hello, COUNTS, st.text(), st.text(), st.text()),
    st.builds(link.Reply, COUNTS, st.binary(), FAILURES, COUNTS, COUNTS, COUNTS),
    st.builds(link.Ask, COUNTS, st.text(), st.text(), st.binary(), COUNTS),
    st.builds(link.Put, COUNTS, st.text(), st.none() | st.binary()),
    st.builds(link.Log, st.text(), st.text(), st.text(), COUNTS),
)


@given(st.lists(FROM_AGENT, max_size=8), st.integers(1, 64))
def test_frames_cut_anywhere_arrive_whole_and_in_order(
    frames: list[link.FromAgent], step: int
) -> None:
    """However the stream is chopped, the same frames come out."""
    stream = b"".join(link.encode(frame) for frame in frames)
    buffer = link.FrameBuffer(1 << 20)
    bodies: list[bytes] = []
    for at in range(0, len(stream), step):
        bodies += buffer.feed(stream[at : at + step])
    assert [link.decode_from_agent(body) for body in bodies] == frames


def test_frame_of_an_agent_with_a_multitude_of_items_is_refused() -> None:
    """What may be added to a frame by a later version is little; more would keep a node busy."""
    frame = link.Log("log", "info", "text", 1)
    later = ["Log", *frame.values(), *range(10)]
    assert link.decode_from_agent(_packed(later)) == frame
    with pytest.raises(link.LinkBroken, match="too long"):
        link.decode_from_agent(_packed([*later, *range(60)]))


def _packed(value: object) -> bytes:
    data = bytearray()
    pack(value, data)
    return bytes(data)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    """Bytes that are no frame raise `LinkBroken` and nothing else."""
    try:
        for body in link.FrameBuffer(1000).feed(garbage):
            link.decode_from_agent(body)
            link.decode_from_node(body)
    except link.LinkBroken:
        pass


def test_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    """A length beyond the bound ends the connection without waiting for the bytes."""
    with pytest.raises(link.LinkBroken, match="over the limit of 10"):
        link.FrameBuffer(10).feed((11).to_bytes(4, "little"))


def test_frame_of_the_other_direction_is_refused() -> None:
    """A node's frame is no agent's frame."""
    body = link.encode(link.Cancel(1))[4:]
    with pytest.raises(link.LinkBroken):
        link.decode_from_agent(body)


@pytest.mark.parametrize("cls", PLATFORM_ERRORS)
def test_platform_error_survives_the_link(cls: type[Exception]) -> None:
    """Class, message, hint and step come out as they went in."""
    error = (
        VmStartFailed("m", step="spawn", hint="h") if cls is VmStartFailed else cls("m", hint="h")  # type: ignore[call-arg]
    )
    back = link.error_of(link.failure_of(error))  # type: ignore[arg-type]
    assert type(back) is cls
    assert (str(back), back.hint) == ("m", "h")
    assert getattr(back, "step", None) == getattr(error, "step", None)


@pytest.mark.parametrize("cls", [ActorFailed, ActorTrapped])
def test_actor_error_survives_the_link(cls: type[ActorFailed]) -> None:
    """An actor's error stays an actor's error, with its own code."""
    back = link.error_of(link.failure_of(cls("m", code="c", retryable=True, hint="h")))
    assert type(back) is cls
    assert (back.message, back.code, back.retryable, back.hint) == ("m", "c", True, "h")
