"""The stack of a TypeScript component, on one of the form its compiler makes."""

from __future__ import annotations

import pytest
from support.typescript_component import COMPONENT, TOP, typescript_component
from wasmtime import Engine, Store
from wasmtime import component as wit

from plexspaces_node.errors import Internal
from plexspaces_node.toolchains.typescript.stack import RESERVE_BYTES, STACK_BYTES, with_stack

PAGE_BYTES = 65536
PAGES = 25


def told(component: bytes) -> dict[str, int]:
    """Return what the component says of itself once it has been made."""
    engine = Engine()
    store = Store(engine)
    made = wit.Linker(engine).instantiate(store, wit.Component(engine, component))
    said = {}
    for name in ("noted", "limit", "pointer", "pages"):
        function = made.get_func(store, name)
        assert function is not None
        said[name] = function(store)
    return said


def test_stack_lies_behind_all_that_is_there_and_ends_in_a_limit() -> None:
    """The pointer, the memory's length and the engine's limit change, and nothing else."""
    before = typescript_component()
    assert told(before) == {"noted": TOP - 0x1F0, "limit": 0, "pointer": TOP, "pages": PAGES}

    begin = PAGES * PAGE_BYTES
    assert told(with_stack(before)) == {
        "noted": TOP - 0x1F0,
        "limit": begin + RESERVE_BYTES,
        "pointer": begin + STACK_BYTES,
        "pages": PAGES + STACK_BYTES // PAGE_BYTES,
    }


@pytest.mark.parametrize(
    ("known", "other", "said"),
    [
        ("__stack_pointer", "__another", "0 of its modules have a stack"),
        # Neither the engine's note nor what looks like one.
        ("\\10\\fe\\0f", "\\10\\00\\0f", "its engine has another stack"),
        ('(memory (export "memory") 25)', '(memory (export "memory") 25 90)', "not known"),
        (
            f'(global (export "__stack_pointer") (mut i32) (i32.const {TOP}))',
            f'(global (export "__stack_pointer") i32 (i32.const {TOP}))',
            "not known",
        ),
    ],
)
def test_component_of_another_form_is_an_error_of_ours(known: str, other: str, said: str) -> None:
    """What a later compiler makes is not changed by guessing."""
    text = COMPONENT.replace(known, other)
    with pytest.raises(Internal, match=said):
        with_stack(typescript_component(text))
