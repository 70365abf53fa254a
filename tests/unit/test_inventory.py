"""The inventory: what counts, what is spared, and what goes next."""

from __future__ import annotations

import random

from plexspaces_node.node.artifacts.eviction import Inventory


def inventory(*keys: str, promised_bytes: int = 0) -> Inventory:
    """Return a inventory with idle items of 10 bytes, the one put first idle for longest."""
    made = Inventory(promised_bytes)
    for key in keys:
        made.put(key, wasm_bytes=4, native_bytes=6)
    return made


def pruned(made: Inventory, limit_bytes: int, now_s: float = 0) -> list[str]:
    """Take what is too much, and return it in that order."""
    taken = []
    while (key := made.surplus(limit_bytes, now_s)) is not None:
        made.take(key)
        taken.append(key)
    return taken


def test_surplus_when_within_the_limit_then_nothing_goes() -> None:
    """The limit itself is allowed, and one byte more is not."""
    made = inventory("a", "b", "c")
    assert pruned(made, 30) == []
    assert pruned(made, 29) == ["a"]
    assert (made.idle_bytes, made.total_bytes) == (20, 20)


def test_surplus_when_used_since_then_the_longest_idle_goes_first() -> None:
    """What was released or promised last goes last."""
    made = inventory("a", "b", "c")
    made.hold("a", "")
    made.release("a")
    made.promise("b", 0)
    assert pruned(made, 0) == ["c", "a", "b"]


def test_surplus_when_held_then_it_neither_counts_nor_goes() -> None:
    """Every holder has to let go before an item may go."""
    made = inventory("a", "b")
    made.hold("a", "")
    made.hold("a", "")
    made.release("a")
    assert pruned(made, 10) == []
    assert pruned(made, 0) == ["b"]
    assert (made.idle_bytes, made.total_bytes) == (0, 10)
    made.release("a")
    assert pruned(made, 0) == ["a"]


def test_surplus_when_promised_then_it_goes_when_the_promise_has_ended() -> None:
    """Whoever was told that it is here can rely on it for a time, but not for ever."""
    made = inventory("a", "b", promised_bytes=100)
    made.promise("a", 60)
    assert pruned(made, 0, 59) == ["b"]
    assert pruned(made, 0, 60) == ["a"]


def test_surplus_when_too_much_is_promised_then_the_last_promise_holds() -> None:
    """Promises are no way around every limit, yet one can always be kept."""
    made = inventory("a", "b", "c", promised_bytes=20)
    for key in "abc":
        made.promise(key, 60)
    assert pruned(made, 0) == ["a"]
    made.put("c", native_bytes=1000)
    assert pruned(made, 0) == ["b"]


def test_refuse_when_held_then_it_is_surplus_with_the_last_release() -> None:
    """What cannot be used goes at once, but not from under somebody's hands."""
    made = inventory("a")
    made.hold("a", "")
    made.refuse("a")
    assert not made.is_surplus("a")
    made.release("a")
    assert made.is_surplus("a")
    made.put("a", wasm_bytes=4)
    assert not made.is_surplus("a")


def test_hold_when_it_was_never_here_then_nothing_stays() -> None:
    """Somebody who holds what does not come leaves no trace."""
    made = inventory()
    made.hold("a", "")
    made.release("a")
    assert repr(made) == repr(inventory())


def test_bytes_when_anything_happens_then_they_are_those_of_the_items() -> None:
    """The sums that are kept are the sums that counting would give."""
    choose = random.Random(7)
    made, held = inventory(), dict.fromkeys("abcdef", 0)
    sizes: dict[str, int] = {}
    for _ in range(3000):
        key = choose.choice("abcdef")
        match choose.randrange(4):
            case 0:
                sizes[key] = choose.randrange(1, 9)
                made.put(key, wasm_bytes=sizes[key], native_bytes=0)
            case 1:
                made.hold(key, "")
                held[key] += 1
            case 2 if held[key]:
                made.release(key)
                held[key] -= 1
            case 3:
                for gone in pruned(made, 10):
                    assert not held[gone]
                    del sizes[gone]
        assert made.total_bytes == sum(sizes.values())
        assert made.idle_bytes == sum(size for name, size in sizes.items() if not held[name])
