"""What an agent says of the memory around it, and how it says it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from plexspaces_node.agent import memory
from plexspaces_node.errors import Unavailable
from plexspaces_node.wire import link

MEMINFO = (
    "MemTotal:         249000 kB\nMemFree:  1 kB\nMemAvailable:     150000 kB\nSwapFree: 7 kB\n"
)


def test_memory_of_a_guest_when_measured_then_it_is_the_kernels(tmp_path: Path) -> None:
    """In use is what can no longer be had, whatever the kernel keeps in its caches."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    found = memory.of_guest(tmp_path)
    assert found == (True, 249_000 * 1024, 99_000 * 1024, 150_000 * 1024, 7 * 1024)


def test_memory_of_a_process_when_limited_then_it_is_told_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is the one the limit counts, and never less than nothing is left."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tpython\nVmData:\t  2048 kB\n")
    limits = {"limit": 5 * 1024 * 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["limit"], 0))
    mib = 1024 * 1024
    assert memory.of_process(tmp_path) == (False, 5 * mib, 2 * mib, 3 * mib, 0)
    limits["limit"] = mib
    assert memory.of_process(tmp_path) == (False, mib, 2 * mib, 0, 0)
    limits["limit"] = resource.RLIM_INFINITY
    assert memory.of_process(tmp_path) == (False, 0, 2 * mib, 0, 0)


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemTotal:\nMemAvailable: x kB\n"])
def test_memory_when_proc_does_not_tell_then_unavailable(tmp_path: Path, text: str) -> None:
    """A kernel that says something else costs an answer, not the agent."""
    (tmp_path / "meminfo").write_text(text)
    with pytest.raises(Unavailable):
        memory.of_guest(tmp_path)
    with pytest.raises(Unavailable):
        memory.of_process(tmp_path)


@pytest.mark.parametrize("bad", [-1, 2**63])
def test_measured_when_no_size_can_be_so_then_the_link_is_broken(bad: int) -> None:
    """A guest's numbers are checked before anybody works with them."""
    body = link.encode(link.Measured(1, True, bad, 0, 0))[4:]
    with pytest.raises(link.LinkBroken):
        link.decode_from_agent(body)
