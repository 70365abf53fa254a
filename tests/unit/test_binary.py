"""What a WebAssembly binary says of itself."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.agent import binary
from plexspaces_node.errors import InvalidArgument

CORE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _section(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


def _producers(language: bytes) -> bytes:
    fields = b"\x01" + _text(b"language") + b"\x01" + _text(language) + _text(b"1.0")
    return _section(0, _text(b"producers") + fields)


def test_language_of_a_module_is_read_from_its_producers() -> None:
    """The field `language` is what a compiler says it compiled."""
    assert binary.languages(CORE + _producers(b"Go")) == ["Go"]


def test_language_of_a_nested_module_is_found_after_the_outer_one() -> None:
    """A component's own word comes before that of what is inside it."""
    inner = CORE + _producers(b"Rust")
    whole = COMPONENT + _producers(b"JavaScript") + _section(1, inner)
    assert binary.languages(whole) == ["JavaScript", "Rust"]


def test_component_with_cpython_inside_is_python() -> None:
    """An interpreter's library tells what its producers do not."""
    inner = CORE + _section(0, _text(b"dylink.0") + b"\x02 libpython3.14.so") + _producers(b"Rust")
    assert "Python" in binary.languages(COMPONENT + _section(1, inner))


def test_binary_without_producers_has_no_language() -> None:
    """Nothing said is nothing claimed."""
    assert binary.languages(CORE) == []


@pytest.mark.parametrize("junk", [b"", b"hello", b"\0asm", b"\0asm\x07\0\0\0"])
def test_what_is_no_webassembly_is_refused(junk: bytes) -> None:
    """The header decides, before anything else is read."""
    with pytest.raises(InvalidArgument):
        binary.languages(junk)


def test_every_truncation_is_refused_or_read_without_a_crash() -> None:
    """A file cut anywhere never reads beyond its end."""
    whole = COMPONENT + _producers(b"Go") + _section(1, CORE + _producers(b"Rust"))
    refused = 0
    for end in range(8, len(whole)):
        try:
            binary.languages(whole[:end])
        except InvalidArgument:
            refused += 1
    assert refused >= len(whole) - 8 - 2


@given(st.binary(max_size=300))
def test_any_bytes_after_a_header_never_crash(body: bytes) -> None:
    """Hostile sections raise `InvalidArgument` and nothing else."""
    for header in (CORE, COMPONENT):
        with contextlib.suppress(InvalidArgument):
            binary.languages(header + body)
