"""The shelves: records that check themselves, the table of states, the pinned runtime."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import (
    APPLICATION_TRANSITIONS,
    ENGINE,
    ApplicationSpec,
    ApplicationState,
    VmConfig,
    check_name,
)

DIGEST = "0" * 64


def test_engine_is_the_installed_wasmtime() -> None:
    """The name under which artifacts are cached is that of the runtime that loads them."""
    assert f"wasmtime {version('wasmtime')}" == ENGINE


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63, "x1-y2"])
def test_name_within_the_rule_is_taken(name: str) -> None:
    """Names are DNS labels."""
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "../x", "ä", "a" * 64, "a\n"])
def test_name_outside_the_rule_is_refused_with_the_value(name: str) -> None:
    """A name becomes a path and a socket, so nothing else passes."""
    with pytest.raises(InvalidArgument) as caught:
        check_name(name)
    assert repr(name) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("vcpus", "memory_mib"), [(0, 256), (-1, 256), (1, 0), (1, -5)])
def test_machine_of_no_size_is_refused(vcpus: int, memory_mib: int) -> None:
    """A machine has at least one CPU and some memory."""
    with pytest.raises(InvalidArgument, match=r"-?\d"):
        VmConfig(vcpus, memory_mib)


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "abc"},
        {"digest": "G" * 64},
        {"version": ""},
        {"version": "a b"},
        {"env": {"1A": "x"}},
        {"env": {"A": "x\0y"}},
        {"name": "No"},
    ],
)
def test_spec_with_a_wrong_part_is_refused(wrong: dict[str, object]) -> None:
    """An application that cannot be is never made."""
    good: dict[str, object] = {"name": "a", "digest": DIGEST}
    with pytest.raises(InvalidArgument):
        ApplicationSpec(**(good | wrong))  # type: ignore[arg-type]


def test_every_state_has_its_moves_and_can_reach_stopped() -> None:
    """The table is whole, and nothing gets stuck."""
    assert set(APPLICATION_TRANSITIONS) == set(ApplicationState)
    for state in ApplicationState:
        seen = {state}
        while new := {m for s in seen for m in APPLICATION_TRANSITIONS[s]} - seen:
            seen |= new
        assert ApplicationState.STOPPED in seen
