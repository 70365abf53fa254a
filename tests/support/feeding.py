"""Bytes that were read elsewhere, given to a reader of frames."""

from __future__ import annotations

from typing import TypeVar

from plexspaces_node.link.frames import AgentFrame, Body, FrameReader, NodeFrame

_F = TypeVar("_F", AgentFrame, NodeFrame)


def feed(reader: FrameReader[_F], data: Body) -> list[tuple[_F, Body]]:
    """Return the frames that are whole with `data`; raises `LinkBroken`."""
    frames: list[tuple[_F, Body]] = []
    rest = memoryview(data)
    while rest:
        room = reader.room()
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        del room
        frames.extend(reader.filled(count))
        rest = rest[count:]
    return frames
