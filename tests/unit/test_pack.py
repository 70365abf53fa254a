"""Records as msgpack arrays, held against an implementation of others."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.wire.pack import Malformed, Record, Size, nestable, pack, unpack

PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
VALUES = PLAIN | st.lists(PLAIN | st.lists(PLAIN)) | st.dictionaries(st.text(), PLAIN)


@nestable
class Inner(Record):
    """A record inside another."""

    text: str


class Outer(Record):
    """A record of every kind of field."""

    number: int
    size: Size
    flag: bool
    data: bytes | None
    names: dict[str, str]
    inner: Inner | None
    late: str = "default"


WHOLE = [-1, 2, True, b"x", {"a": "b"}, ["t"], "late"]


def packed(value: object) -> bytes:
    """Return a value's bytes."""
    into = bytearray()
    pack(value, into)
    return bytes(into)


@given(VALUES)
def test_pack_when_read_by_others_then_the_same_value(value: object) -> None:
    """What is written is msgpack."""
    assert msgspec.msgpack.decode(packed(value)) == value


@given(VALUES)
def test_unpack_when_written_by_others_then_the_same_value(value: object) -> None:
    """What is msgpack is read."""
    assert unpack(msgspec.msgpack.encode(value)) == value


@pytest.mark.parametrize("length", [15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_pack_when_lengths_change_their_form_then_both_ways_agree(length: int) -> None:
    """Texts, bytes, arrays and maps on both sides of every boundary."""
    for value in ("x" * length, b"x" * length, [1] * length, {str(i): i for i in range(length)}):
        assert msgspec.msgpack.decode(packed(value)) == value
        assert unpack(packed(value)) == value


@given(st.binary(max_size=100))
def test_unpack_when_garbage_then_malformed_and_nothing_else(garbage: bytes) -> None:
    """No bytes make it fail otherwise."""
    with suppress(Malformed):
        unpack(garbage)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 1000,
        b"\x81\x01\x01",
        b"\x01\x01",
    ],
)
def test_unpack_when_it_lies_about_lengths_or_depth_then_refused_at_once(data: bytes) -> None:
    """Nothing is reserved and nothing recursed into on a sender's word."""
    with pytest.raises(Malformed):
        unpack(data)


@pytest.mark.parametrize(
    "value",
    [[0] * 65, [[0] * 60, [0] * 4], {str(number): 0 for number in range(65)}, [[]] * 65],
    ids=["an array", "arrays", "a map", "empty arrays"],
)
def test_unpack_when_there_are_more_items_than_allowed_then_refused(value: object) -> None:
    """A sender cannot make a reader busy: what it may send is counted, nested or not."""
    data = msgspec.msgpack.encode(value)
    assert unpack(data, items=66) == value
    with pytest.raises(Malformed, match="too long"):
        unpack(data, items=64)


def test_record_when_sent_then_it_comes_back_equal() -> None:
    """Nested records and defaults included."""
    record = Outer(-1, 2, flag=True, data=None, names={}, inner=Inner("t"))
    assert Outer.of(unpack(packed(record))) == record
    assert record.late == "default"
    assert repr(Inner("t")) == "Inner(text='t')"


def test_record_when_fields_are_missing_or_surplus_then_old_and_new_understand_each_other() -> None:
    """The end may be missing where there are defaults, and more may come."""
    assert Outer.of(WHOLE[:6]).late == "default"
    assert Outer.of([*WHOLE, "surplus"]) == Outer.of(WHOLE)
    with pytest.raises(Malformed, match="without inner"):
        Outer.of(WHOLE[:5])


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        *((0, True), (0, "1"), (1, -1), (1, 2**63), (2, 1), (3, "x"), (4, {"a": 1})),
        *((5, [2]), (5, "t"), (6, None), (6, b"late")),
    ],
)
def test_record_when_a_value_has_the_wrong_type_then_refused(place: int, wrong: object) -> None:
    """A peer that lies about one field sends no frame."""
    values = list(WHOLE)
    values[place] = wrong
    with pytest.raises(Malformed):
        Outer.of(values)


def test_record_when_made_wrongly_then_a_type_error() -> None:
    """A program's own mistake is told as Python tells it."""
    for values, named in (((1, 2, 3), {}), ((1,), {"text": "t"}), ((), {"other": 1}), ((), {})):
        with pytest.raises(TypeError):
            Inner(*values, **named)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 1.5, object()])
def test_pack_when_a_value_cannot_be_sent_then_malformed(value: object) -> None:
    """A frame is sent whole or not at all."""
    with pytest.raises(Malformed):
        packed(value)
