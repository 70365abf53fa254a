"""Whether a message is refused for want of memory, and how a guest's swap space begins."""

from __future__ import annotations

import struct

import pytest

from plexspaces_node.agent.memory import Memory
from plexspaces_node.agent.room import UNCHECKED_BYTES, Room
from plexspaces_node.agent.swap import header
from plexspaces_node.errors import ResourceExhausted, Unavailable

MIB = 1024 * 1024


def room(*, available_mib: int, swap_mib: int = 0, total_mib: int = 96) -> Room:
    """Return the room of a machine with so much memory and swap space left."""
    used, available = (total_mib - available_mib) * MIB, available_mib * MIB
    found = Memory(bool(swap_mib), total_mib * MIB, used, available, swap_mib * MIB)
    return Room(lambda: found)


@pytest.mark.parametrize(
    ("available_mib", "swap_mib", "length"),
    [(20, 192, 400_000), (160, 512, 2 * MIB), (360, 0, 2 * MIB), (0, 192, UNCHECKED_BYTES)],
)
def test_check_when_there_is_memory_then_nothing_is_refused(
    available_mib: int, swap_mib: int, length: int
) -> None:
    """A guest is reckoned with its swap space, and short messages are never looked at."""
    room(available_mib=available_mib, swap_mib=swap_mib).check(length)


@pytest.mark.parametrize(
    ("available_mib", "swap_mib"),
    [(20, 192), (159, 0), (40, 100)],
    ids=["little", "no swap space", "swap space in use"],
)
def test_check_when_memory_is_short_then_the_error_tells_how_much_and_what_helps(
    available_mib: int, swap_mib: int
) -> None:
    """The sender learns the size, what there is, and the option that mends it."""
    with pytest.raises(ResourceExhausted, match=r"1048576 bytes .* 96 MiB") as caught:
        room(available_mib=available_mib, swap_mib=swap_mib).check(MIB)
    assert "--memory" in (caught.value.hint or "")


def test_check_when_memory_cannot_be_told_then_nothing_is_refused() -> None:
    """Neither where there is no limit nor where the kernel does not say."""
    Room(lambda: Memory(False, 0, MIB, 0)).check(2 * MIB)

    def unknown() -> Memory:
        raise Unavailable("no /proc")

    Room(unknown).check(2 * MIB)


def test_header_when_made_then_it_is_a_swap_area_of_version_1() -> None:
    """The kernel finds version, last page and magic where mkswap puts them."""
    page = header(100)
    assert struct.unpack_from("<III", page, 1024) == (1, 99, 0)
    assert page.endswith(b"SWAPSPACE2")
    assert len(page) == 4096
