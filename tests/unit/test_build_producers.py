from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.errors import Internal
from plexspaces_node.toolchains.wasm.producers import Fields, with_producers

MODULE = b"\0asm\x01\0\0\0"
_RUST = b"\x09producers\x02\x08language\x01\x04Rust\x00\x0cprocessed-by\x01\x05rustc\x041.75"
RUST = bytes([0, len(_RUST)]) + _RUST
TYPES = bytes([1, 1, 0])


def test_added_to_a_module_without_the_section_comes_first() -> None:
    """The section is put right after the header, byte for byte as the conventions say."""
    made = with_producers(MODULE + TYPES, {"language": {"Python": "3"}})

    assert made == MODULE + b"\x00\x1e\x09producers\x01\x08language\x01\x06Python\x013" + TYPES


def test_added_to_a_module_with_the_section_is_merged() -> None:
    """What the section already said is kept, a field of both holds both; one section stays."""
    made = with_producers(
        MODULE + TYPES + RUST + TYPES, {"language": {"Python": ""}, "sdk": {"plexspaces": "1"}}
    )

    assert made.count(b"producers") == 1
    assert made.startswith(MODULE + b"\x00")
    assert made.endswith(TYPES + TYPES)
    for part in (b"\x04Rust\x00", b"\x06Python\x00", b"\x05rustc\x041.75", b"\x0aplexspaces\x011"):
        assert part in made


_names = st.text(min_size=1, max_size=200)


@given(st.dictionaries(_names, st.dictionaries(_names, _names, min_size=1), max_size=4))
def test_adding_twice_changes_nothing_more(fields: Fields) -> None:
    """Any names and versions survive being written and read; writing them again is harmless."""
    once = with_producers(MODULE + TYPES, fields)

    assert with_producers(once, fields) == once
    assert with_producers(once, {}) == once


@pytest.mark.parametrize("cut", [9, 12, 30, 40])
def test_added_to_a_truncated_module_is_a_defect_of_the_compiler(cut: int) -> None:
    """A binary that ends inside a section is refused rather than made worse."""
    with pytest.raises(Internal, match="incomplete"):
        with_producers((MODULE + RUST)[:cut], {"language": {"Go": ""}})
