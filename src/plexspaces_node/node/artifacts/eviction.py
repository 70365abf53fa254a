"""An index of the artifact store in memory: sizes, who needs what, what is removed next.

An item is an artifact with its native code; both come and go together. It is *held* while somebody
needs it and *idle* otherwise. Only idle items count against a limit, and the one idle for longest
is removed first. Knows no disk, no clock and no application.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class Item:
    """An artifact and its native code.

    Attributes:
        name: of the artifact, or "" if only native code was found.
        holds: how many need it.
        promised_until_s: somebody was told that it exists and has until then to use it.
        refused: it cannot be used and is not worth keeping.
    """

    name: str = ""
    wasm_bytes: int = 0
    native_bytes: int = 0
    holds: int = 0
    promised_until_s: float = 0.0
    refused: bool = False

    @property
    def size_bytes(self) -> int:
        """The disk space that both use."""
        return self.wasm_bytes + self.native_bytes


class Inventory:
    """The items of a store by their key. Used from one thread; nothing here blocks.

    Every operation takes the same short time for any number of items.
    """

    def __init__(self, promised_bytes: int) -> None:
        """Create an empty inventory; `promised_bytes` limits idle items kept by a promise."""
        self._promised_bytes = promised_bytes
        self._items: dict[str, Item] = {}
        # The one idle for longest comes first.
        self._idle: OrderedDict[str, Item] = OrderedDict()
        self.idle_bytes = 0
        self.total_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<Inventory {len(self._items)} items, {len(self._idle)} idle: {self.idle_bytes} bytes>"
        )

    def put(
        self,
        key: str,
        name: str = "",
        *,
        wasm_bytes: int | None = None,
        native_bytes: int | None = None,
    ) -> None:
        """Update what is known about an item; omitted values stay."""
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = self._idle[key] = Item()
        before = item.size_bytes
        item.name = name or item.name
        if wasm_bytes is not None:
            item.wasm_bytes, item.refused = wasm_bytes, False
        if native_bytes is not None:
            item.native_bytes = native_bytes
        self._grow(key, item.size_bytes - before)

    def hold(self, key: str, name: str) -> None:
        """Hold an item, known or not, until `release` was called as often."""
        item = self._items.setdefault(key, Item())
        item.name = name
        item.holds += 1
        if self._idle.pop(key, None) is not None:
            self.idle_bytes -= item.size_bytes

    def release(self, key: str) -> None:
        """Release an item; if nobody holds it any more it is idle, and the one used last."""
        item = self._items[key]
        item.holds -= 1
        if item.holds:
            return
        if item.size_bytes:
            self._idle[key] = item
            self.idle_bytes += item.size_bytes
        else:
            del self._items[key]

    def promise(self, key: str, until_s: float) -> None:
        """Keep an item for somebody who was told about it, and make it the one used last."""
        item = self._items.get(key)
        if item is not None:
            item.promised_until_s = until_s
            if key in self._idle:
                self._idle.move_to_end(key)

    def refuse(self, key: str) -> None:
        """Remove an item as soon as nobody holds it, unless it is put here again."""
        if key in self._items:
            self._items[key].refused = True

    def is_surplus(self, key: str) -> bool:
        """Return whether an item was refused and nobody holds it."""
        return key in self._idle and self._idle[key].refused

    def surplus(self, limit_bytes: int, now_s: float) -> str | None:
        """Return the item to remove next so that idle ones are within the limit, or None.

        Promised items go last. They stay while they are within their own limit, and the one
        promised last stays in any case.
        """
        if self.idle_bytes <= limit_bytes:
            return None
        # The promised ones were used last, so this usually ends at the first item.
        for key, item in self._idle.items():
            if item.promised_until_s <= now_s:
                return key
        if self.idle_bytes > max(limit_bytes, self._promised_bytes) and len(self._idle) > 1:
            return next(iter(self._idle))
        return None

    def take(self, key: str) -> Item:
        """Remove an idle item from the inventory and return it."""
        item = self._idle.pop(key)
        del self._items[key]
        self.idle_bytes -= item.size_bytes
        self.total_bytes -= item.size_bytes
        return item

    def _grow(self, key: str, by_bytes: int) -> None:
        self.total_bytes += by_bytes
        if key in self._idle:
            self.idle_bytes += by_bytes
