"""Artifacts for other nodes, as they are on the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import BinaryIO, Self

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.model import MIB, full_name
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.http.message import Response

AT_ONCE = 16
"""How many other nodes get at the same time."""

_PIECE_BYTES = MIB // 2


class PeerArtifacts:
    """Gives artifacts to other nodes. Used on one event loop."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._open = 0

    def __repr__(self) -> str:
        return f"<PeerArtifacts {self._open} at once>"

    async def answer(self, tenant: str, digest: str) -> Response:
        """Return the response with an artifact.

        Raises `NotFound`, `InvalidArgument` for a bad digest, and `ResourceExhausted` if too many
        are read.
        """
        if self._open >= AT_ONCE:
            raise ResourceExhausted(
                f"{self._open} artifacts go to other nodes already", hint="try again in a moment"
            )
        self._open += 1
        try:
            file = await self._store.open(full_name(tenant, digest))
        except BaseException:
            self._open -= 1
            raise
        size = os.fstat(file.fileno()).st_size
        headers = [(b"content-type", b"application/wasm")]
        return Response(200, headers, _Pieces(file, self._closed), length=size)

    def _closed(self) -> None:
        self._open -= 1


class _Pieces:
    """A file in pieces."""

    def __init__(self, file: BinaryIO, closed: Callable[[], None]) -> None:
        self._file = file
        self._closed: Callable[[], None] | None = closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if piece := await asyncio.to_thread(self._file.read, _PIECE_BYTES):
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the file. Idempotent."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
            # On a thread: a read may still be running.
            await asyncio.to_thread(self._file.close)
