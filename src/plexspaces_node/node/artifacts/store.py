"""The artifacts of a node: uploaded, compiled, held while somebody needs them.

Combines who needs an artifact (`eviction`), its files (`files`), uploads, the compile queue and the
pruner. Knows nothing of applications: they say what they hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MIB
from plexspaces_node.node.artifacts.compile_queue import CompileQueue
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.eviction import Inventory
from plexspaces_node.node.artifacts.files import ArtifactFiles, missing
from plexspaces_node.node.artifacts.pruner import PROMISE_S, Pruner
from plexspaces_node.node.artifacts.report import ArtifactReport
from plexspaces_node.node.artifacts.upload import IncomingFile, Upload
from plexspaces_node.node.artifacts.upload_slots import Uploads, UploadTimes
from plexspaces_node.node.disk import room_of
from plexspaces_node.node.timeouts import Timeouts

# Measured: native code is two to three times its WebAssembly; a small file adds pages.
_OUTPUT_GROWTH = 16
_OUTPUT_LEAST_BYTES = 64 * MIB

_TIMEOUTS = Timeouts()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled artifact.

    Attributes:
        path: path of the native code; valid while somebody holds the artifact.
        cached: whether it existed before this call.
        duration_ns: wall time of this call, including waiting for others.
        upload_ns: the upload that the same owner made before, which counts once; 0 for none.
    """

    path: Path
    report: ArtifactReport
    cached: bool
    duration_ns: int
    upload_ns: int = 0


class ArtifactStore:
    """The artifacts of a node and their native code; use as an async context manager.

    Entering creates the directories and removes leftovers of a crash or an older engine; leaving
    ends every compilation and waits until its process is gone. Unused artifacts stay until
    `start_pruning` sets a limit.
    """

    def __init__(  # noqa: PLR0913 - each bound by its name
        self,
        root: Path,
        *,
        limit_bytes: int,
        engine: str,
        limits: CompileLimits | None = None,
        compiler: Sequence[str] = (),
        promise_s: float = PROMISE_S,
        upload_grace_s: float = _TIMEOUTS.upload_grace_s,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._inventory = Inventory(limit_bytes)
        self._files = ArtifactFiles(root, engine, self._inventory)
        self._uploads = Uploads()
        self._upload_grace_s = upload_grace_s
        self._upload_times = UploadTimes(promise_s)
        self._compilations = CompileQueue(
            self._files,
            limits=limits or CompileLimits(),
            compiler=compiler,
            output_limit_bytes=max(_OUTPUT_LEAST_BYTES, _OUTPUT_GROWTH * limit_bytes),
        )
        self._pruner = Pruner(self._files, self._inventory, promise_s)

    def __repr__(self) -> str:
        return f"<ArtifactStore {self._files!r} {self._compilations!r}>"

    async def __aenter__(self) -> Self:
        await self._files.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._compilations.close()
        await self._pruner.close()

    @property
    def total_bytes(self) -> int:
        """The disk space that artifacts and their native code use."""
        return self._inventory.total_bytes

    async def size_bytes(self, digest: str) -> int:
        """Return the length of an artifact, 0 if it is missing."""
        return await self._files.size_bytes(digest) or 0

    async def has(self, digest: str) -> bool:
        """Return whether the artifact can be deployed; raises `InvalidArgument` for a bad digest.

        If so it stays for `promise_s`. One that is damaged and not compiled is removed.
        """
        path, key = self._files.path(digest), self._files.native.key(digest)
        if self._pruner.is_removing(key) or not path.is_file():
            return False
        async with self.holding(digest):
            entry = await self._files.find_native(digest)
            if entry is None and not await self._files.is_whole(digest):
                return False
            self._pruner.promise(digest)
            return True

    @asynccontextmanager
    async def receive(
        self, digest: str, size_bytes: int, *, owner: str = ""
    ) -> AsyncIterator[Upload]:
        """Receive an artifact: write its bytes in the context, leaving it stores the artifact.

        Stored means on disk even after a power loss, and kept for at least `promise_s`. If the
        context is left by an error or a cancellation, or the bytes are not what was announced,
        nothing is stored and the error is raised: `InvalidArgument` for a bad digest, size,
        beginning or content, `ResourceExhausted` for a full disk. Several uploads of the same
        digest can run at once; the total is limited, and the others wait for their `owner`'s turn.
        """
        self._files.path(digest)
        upload = self._upload(size_bytes)
        async with self._uploads.place(upload, owner), self.holding(digest), self._storing(upload):
            yield upload
            await self._store(upload, digest, owner)

    @asynccontextmanager
    async def receive_unnamed(self, size_bytes: int, *, owner: str = "") -> AsyncIterator[Upload]:
        """Do the same for an artifact of an unknown digest; `Upload.digest` has it in the end."""
        upload = self._upload(size_bytes)
        async with (
            self._uploads.place(upload, owner),
            AsyncExitStack() as holds,
            self._storing(upload),
        ):
            yield upload
            await holds.enter_async_context(self.holding(upload.digest))
            await self._store(upload, upload.digest, owner)

    async def compile(
        self,
        digest: str,
        *,
        owner: str = "",
        check: Callable[[ArtifactReport], None] | None = None,
        on_miss: Callable[[], None] | None = None,
    ) -> Compiled:
        """Return the artifact's native code for this engine, from the cache or compiled now.

        `check` raises for an artifact that does not fit, before it is compiled in vain. `on_miss`
        is called if it is not in the cache, before waiting for a compiler. Concurrent calls for the
        same artifact share one compilation, which continues as long as one of them waits; it is
        compiled at the turn of the first one's `owner`. Raises `NotFound` if the artifact is
        missing or damaged; `InvalidArgument` if it cannot run here or crashes the compiler, and
        then it is removed as soon as nobody holds it; `ResourceExhausted` if it needs too much
        time, memory or disk space. Then nothing of a compilation is left.
        """
        began_ns = time.monotonic_ns()
        key = self._files.native.key(digest)
        async with self.holding(digest):
            wasm_bytes = await self._files.size_bytes(digest)
            entry = await self._files.find_native(digest)
            cached = entry is not None
            if entry is None:
                if wasm_bytes is None:
                    raise missing(digest)
                with self._pruner.noticing_full_disk():
                    if check is not None:
                        with self._refusing(key):
                            report = await self._compilations.inspect(digest)
                        check(report)
                    if on_miss is not None:
                        on_miss()
                    with self._refusing(key):
                        entry = await self._compilations.compile(digest, owner)
            elif check is not None:
                check(entry.report)
            self._inventory.put(
                key,
                digest,
                wasm_bytes=None if wasm_bytes is None else room_of(wasm_bytes),
                native_bytes=entry.room_bytes,
            )
            self._pruner.promise(digest)
        return Compiled(
            path=self._files.native.code(key),
            report=entry.report,
            cached=cached,
            duration_ns=time.monotonic_ns() - began_ns,
            upload_ns=self._upload_times.take(owner, digest, now_s=time.monotonic()),
        )

    @asynccontextmanager
    async def holding(self, digest: str) -> AsyncIterator[None]:
        """Keep an artifact, existing or not, from being removed in the body.

        Waits for a removal in progress. The last one to leave removes an artifact that was refused
        meanwhile. Raises `InvalidArgument` for a bad digest.
        """
        self._files.path(digest)
        key = self._files.native.key(digest)
        await self._pruner.wait_for_removal(key)
        self.hold(digest)
        try:
            yield
        finally:
            self.release(digest)
            if self._inventory.is_surplus(key):
                await asyncio.shield(self._pruner.remove(key))

    def hold(self, digest: str) -> None:
        """Hold an artifact until `release` was called as often; in `holding` or at start."""
        self._inventory.hold(self._files.native.key(digest), digest)

    def release(self, digest: str) -> None:
        """Release an artifact: the last one makes it the most recently used of the unused."""
        self._inventory.release(self._files.native.key(digest))
        self._pruner.used(digest)

    def start_pruning(self, limit_bytes: int) -> None:
        """Keep unused artifacts within a limit from now on, in the background.

        Called once, when everybody holds what they need.
        """
        self._pruner.start(limit_bytes)

    def _upload(self, size_bytes: int) -> Upload:
        file, limit_bytes = IncomingFile(self._files.directory), self._limit_bytes
        return Upload(file, size_bytes, limit_bytes=limit_bytes, grace_s=self._upload_grace_s)

    @asynccontextmanager
    async def _storing(self, upload: Upload) -> AsyncIterator[None]:
        """Let an upload be written in the body; its file is an artifact in the end, or removed."""
        try:
            with self._pruner.noticing_full_disk():
                yield
        finally:
            # Shielded: a second cancellation must not leave the file behind. On a thread: a
            # cancelled write may still be running, and is awaited.
            await asyncio.shield(self._settle(upload.file))

    async def _store(self, upload: Upload, digest: str, owner: str) -> None:
        upload.check_whole()
        await asyncio.to_thread(upload.file.commit, digest, self._files.path(digest))
        now_s = time.monotonic()
        self._upload_times.add(owner, digest, upload.duration_ns, now_s=now_s)

    async def _settle(self, file: IncomingFile) -> None:
        await asyncio.to_thread(file.discard)
        if file.stored_bytes is not None:
            key = self._files.native.key(file.digest)
            self._inventory.put(key, file.digest, wasm_bytes=room_of(file.stored_bytes))
            self._pruner.promise(file.digest)

    @contextmanager
    def _refusing(self, key: str) -> Iterator[None]:
        try:
            yield
        except InvalidArgument:
            # It can never run here, and bad input changes nothing.
            self._inventory.refuse(key)
            raise
