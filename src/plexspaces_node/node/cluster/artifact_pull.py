"""Artifacts from other nodes: as they come into the store, and never anything but what was asked.

What comes is compared with its digest before it is stored, and it is bounded: a node that answers
with something else has it refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from plexspaces_node.client.http_reply import error_of
from plexspaces_node.errors import Internal, NotFound, PlexSpacesError, Unavailable
from plexspaces_node.model import MIB, split_name
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.cluster.caller import HOP
from plexspaces_node.node.cluster.peer_connection import Headers, PeerConnection
from plexspaces_node.node.cluster.peers import Peers
from plexspaces_node.tasks import called_back

AT_ONCE = 4
"""How many artifacts come at the same time."""

ANSWER_S = 10.0
"""How long a node has to begin with its answer."""

_BUFFERED_BYTES = MIB
_MOST_ERROR_BYTES = 64 * 1024
_OK = 200


class ArtifactPulls:
    """Gets artifacts from other nodes. Used on one event loop."""

    def __init__(self, peers: Peers, store: ArtifactStore) -> None:
        self._peers = peers
        self._store = store
        self._slots = asyncio.Semaphore(AT_ONCE)

    def __repr__(self) -> str:
        return f"<ArtifactPulls into {self._store!r}>"

    async def fetch(self, node: str, name: str) -> None:
        """Get an artifact, by its tenant and digest, from a node; returns at once if it is here.

        Raises `NotFound` if that node has none, `Unavailable` if it cannot be reached or breaks
        off, and what `ArtifactStore.receive` raises: `InvalidArgument` for other bytes than the
        digest's. Then nothing is stored.
        """
        async with self._slots:
            if await self._store.has(name):
                return
            connection = await called_back(partial(self._peers.connect, node))
            answer = _Answer(connection)
            try:
                connection.send(_head_of(name), b"", answer)
                async with asyncio.timeout(ANSWER_S):
                    await answer.head.wait()
                await self._receive(node, name, answer)
            except TimeoutError:
                raise _broken(node, "it did not answer in time") from None
            finally:
                if not answer.is_complete:
                    connection.leave()
                self._peers.give_back(connection)

    async def _receive(self, node: str, name: str, answer: _Answer) -> None:
        if answer.status != _OK:
            body = bytearray()
            async for piece in answer.pieces():
                body += piece
                if len(body) > _MOST_ERROR_BYTES:
                    break
            raise _error_of(node, answer, bytes(body))
        length = answer.length
        if length is None:
            raise Internal(f"node {node!r} does not say how long an artifact is")
        try:
            async with self._store.receive(name, length, owner=f"node {node}") as upload:
                async for piece in upload.in_time(answer.pieces()):
                    await upload.write(piece)
        except ConnectionError as error:
            raise _broken(node, str(error)) from error


class _Answer:
    """A response as it comes; a `peer_connection.Taker`.

    Attributes:
        head: set once it has begun, or never will.
        is_complete: whether all of it has come.
    """

    def __init__(self, connection: PeerConnection) -> None:
        self.head = asyncio.Event()
        self.is_complete = False
        self.status = 0
        self.length: int | None = None
        self._connection = connection
        self._buffer = bytearray()
        self._changed = asyncio.Event()
        self._fault = ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what comes; raises `ConnectionError` if the rest will not."""
        while True:
            if self._buffer:
                piece, self._buffer = bytes(self._buffer), bytearray()
                self._connection.resume()
                yield piece
            elif self._fault:
                raise ConnectionError(self._fault)
            elif self.is_complete:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def proceed(self) -> None:
        pass

    def begun(self, status: int, headers: Headers) -> None:
        self.status = status
        lengths = [value for name, value in headers if name == b"content-length"]
        if len(lengths) == 1 and lengths[0].isdigit():
            self.length = int(lengths[0])
        self.head.set()

    def came(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) > _BUFFERED_BYTES:
            self._connection.pause()
        self._changed.set()

    def ended(self) -> None:
        self.is_complete = True
        self._changed.set()

    def broke(self, why: str) -> None:
        self._fault = why
        self.head.set()
        self._changed.set()


def _head_of(name: str) -> bytes:
    tenant, digest = split_name(name)
    return (
        f"GET /peer/artifacts/{tenant}/{digest} HTTP/1.1\r\nhost: localhost\r\n{HOP}: 1\r\n\r\n"
    ).encode("ascii")


def _error_of(node: str, answer: _Answer, body: bytes) -> PlexSpacesError:
    if not answer.status:
        return _broken(node, "it closed the connection")
    error = error_of(answer.status, body)
    if isinstance(error, NotFound):
        return error
    return _broken(node, str(error))


def _broken(node: str, why: str) -> Unavailable:
    return Unavailable(f"no artifact from node {node!r}: {why}", hint="plexspaces nodes")
