"""Waiting until the cluster's records say something, by listening to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.view import ClusterView

_T = TypeVar("_T")


async def until_any(view: ClusterView, look: Callable[[], _T | None]) -> _T:
    """Do the same as `until` after any change."""
    return await _until(view, lambda _kind, _whose: True, look)


async def until(view: ClusterView, name: str, look: Callable[[], _T | None]) -> _T:
    """Return what `look` returns once it is not None, or raise what it raises.

    It is called at once, and whenever something about an application or a node has changed.
    """

    def concerns(kind: Kind, whose: str) -> bool:
        return whose == name or kind in (Kind.NODE, Kind.BEAT)

    return await _until(view, concerns, look)


async def _until(
    view: ClusterView, concerns: Callable[[Kind, str], bool], look: Callable[[], _T | None]
) -> _T:
    changed = asyncio.Event()

    def told(kind: Kind, whose: str) -> None:
        if concerns(kind, whose):
            changed.set()

    unfollow = view.on_change(told)
    try:
        while (found := look()) is None:
            await changed.wait()
            changed.clear()
        return found
    finally:
        unfollow()
