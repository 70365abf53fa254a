"""The rule `memory`: on VMs that have too much, too little, and enough."""

from __future__ import annotations

import os
from typing import Any

import pytest

from plexspaces_node.model import MIB
from plexspaces_node.node.advisor import memory
from plexspaces_node.node.advisor.advice import Advice, Rule
from plexspaces_node.node.advisor.memory import MemoryFigures
from plexspaces_node.vm.host import procfs

SEEN = MemoryFigures(
    application="app",
    given_mib=256,
    fixed_bytes=48 * MIB,
    used_bytes=20 * MIB,
    surely_used_bytes=15 * MIB,
    least_mib=64,
    how="looking",
    seconds=600.0,
    looks=10,
    messages=100,
)


def one(**changes: Any) -> Advice:
    [advice] = memory.advise(SEEN._replace(**changes))
    return advice


def none(**changes: Any) -> bool:
    return not list(memory.advise(SEEN._replace(**changes)))


def test_memory_that_is_never_used_can_be_given_back() -> None:
    """48 that it cannot have and 1.5 times 20 are 78, in steps of 16: 80."""
    advice = one()
    assert (advice.rule, advice.application) == (Rule.MEMORY, "app")
    assert advice.saved_bytes == (256 - 80) * MIB
    assert advice.saved_s_per_s == 0
    assert advice.command == "plexspaces deploy PROJECT --name app --replace --memory 80"
    assert "80 MiB instead of 256" in advice.advice
    assert "no more than 20 MiB has ever been in use, of the 208 MiB" in advice.advice


def test_less_is_never_less_than_a_vm_needs() -> None:
    """Its level and its application have a minimum; nobody is told to deploy what is refused."""
    assert one(least_mib=100).command.endswith(" --memory 100")
    assert one(used_bytes=MIB).command.endswith(" --memory 64")


@pytest.mark.parametrize(
    ("just_so", "just_not"),
    [
        pytest.param({}, {"seconds": 599.9}, id="minutes"),
        pytest.param({}, {"looks": 9}, id="looks"),
        pytest.param({}, {"messages": 99}, id="messages"),
        # 1.5 times 96 and 48 are 192, a quarter less than 256.
        pytest.param({"used_bytes": 96 * MIB}, {"used_bytes": 96 * MIB + 1}, id="unused"),
        pytest.param({}, {"used_bytes": 0}, id="nothing measured"),
    ],
)
def test_memory_advises_less_from_its_thresholds_on(
    just_so: dict[str, Any], just_not: dict[str, Any]
) -> None:
    """And not a little below."""
    assert one(**just_so).saved_bytes > 0
    assert none(**just_not)


def test_full_memory_should_be_more() -> None:
    """From nine tenths of what the application may have; nothing is saved by it."""
    full = {"used_bytes": 208 * MIB, "surely_used_bytes": int(0.9 * 208 * MIB) + 1}
    advice = one(**full)
    assert advice.command.endswith(" --memory 336")
    assert advice.saved_bytes == 0
    assert "it uses 90 % of the 208 MiB" in advice.advice
    assert none(**{**full, "surely_used_bytes": int(0.9 * 208 * MIB) - 1})


def test_what_may_be_code_is_not_called_full() -> None:
    """The peak has the native code in it, which the application's bound has not."""
    assert none(used_bytes=208 * MIB, surely_used_bytes=100 * MIB)


def test_memory_of_a_process_is_what_the_kernel_says() -> None:
    """Its peak is no less than what it has, of which some is in files."""
    found = procfs.memory_of(os.getpid())
    assert found is not None
    assert found.peak_bytes >= found.resident_bytes > found.anonymous_bytes > MIB
    assert procfs.memory_of(2**22 + 1) is None
