"""The artifacts of a node: uploaded, compiled, held while somebody needs them.

Combines who needs an artifact (`eviction`), its files (`files`), uploads, the compile queue and the
pruner. Knows nothing of applications: they say what they hold. An artifact is named by its digest,
with its tenant before as in an application's full name (`files` says why).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MIB, check_name, full_name, split_name
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


@dataclass(frozen=True, slots=True)
class Inspected:
    """What an artifact is.

    Attributes:
        upload_ns: as in `Compiled`.
    """

    report: ArtifactReport
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
        self._inventory = Inventory(limit_bytes)
        self._files = ArtifactFiles(root, engine, self._inventory)
        self._uploads = Uploads()
        self._new_upload = partial(
            _upload, self._files.directory, limit_bytes=limit_bytes, grace_s=upload_grace_s
        )
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

    async def size_bytes(self, name: str) -> int:
        """Return the length of an artifact, 0 if it is missing."""
        return await self._files.size_bytes(name) or 0

    async def has(self, name: str) -> bool:
        """Return whether the artifact can be deployed; raises `InvalidArgument` for a bad digest.

        If so it stays for `promise_s`. One that is damaged and not compiled is removed.
        """
        path, key = self._files.path(name), self._files.native.key(name)
        if self._pruner.is_removing(key) or not path.is_file():
            return False
        async with self.holding(name):
            entry = await self._files.find_native(name)
            if entry is None and not await self._files.is_whole(name):
                return False
            self._pruner.promise(name)
            return True

    async def open(self, name: str) -> BinaryIO:
        """Open an artifact to be read; it may be removed meanwhile, and is read to its end still.

        The caller closes it. Raises `NotFound`, and `InvalidArgument` for a bad digest.
        """
        path = self._files.path(name)
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise missing(name) from None
        self._pruner.used(name)
        return file

    @asynccontextmanager
    async def receive(
        self, name: str, size_bytes: int, *, owner: str = ""
    ) -> AsyncIterator[Upload]:
        """Receive an artifact: write its bytes in the context, leaving it stores the artifact.

        Stored means on disk even after a power loss, and kept for at least `promise_s`. If the
        context is left by an error or a cancellation, or the bytes are not what was announced,
        nothing is stored and the error is raised: `InvalidArgument` for a bad digest, size,
        beginning or content, `ResourceExhausted` for a full disk. Several uploads of one
        name can run at once; the total is limited, and the others wait for the turn of their tenant
        and in it of their `owner`.
        """
        self._files.path(name)
        tenant, upload = split_name(name)[0], self._new_upload(size_bytes)
        async with (
            self._uploads.place(upload, owner, tenant),
            self.holding(name),
            self._storing(upload, tenant),
        ):
            yield upload
            await self._store(upload, name, owner)

    @asynccontextmanager
    async def receive_unnamed(
        self, tenant: str, size_bytes: int, *, owner: str = ""
    ) -> AsyncIterator[Upload]:
        """Do the same for an artifact of an unknown digest; `Upload.digest` has it in the end."""
        check_name(tenant, what="tenant")
        upload = self._new_upload(size_bytes)
        async with (
            self._uploads.place(upload, owner, tenant),
            AsyncExitStack() as holds,
            self._storing(upload, tenant),
        ):
            yield upload
            name = full_name(tenant, upload.digest)
            await holds.enter_async_context(self.holding(name))
            await self._store(upload, name, owner)

    async def compile(
        self,
        name: str,
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
        key = self._files.native.key(name)
        async with self.holding(name):
            wasm_bytes = await self._files.size_bytes(name)
            entry = await self._files.find_native(name)
            cached = entry is not None
            if entry is None:
                if wasm_bytes is None:
                    raise missing(name)
                with self._pruner.noticing_full_disk():
                    if check is not None:
                        with self._refusing(key):
                            report = await self._compilations.inspect(name, owner)
                        check(report)
                    if on_miss is not None:
                        on_miss()
                    with self._refusing(key):
                        entry = await self._compilations.compile(name, owner)
            elif check is not None:
                check(entry.report)
            self._inventory.put(
                key,
                name,
                wasm_bytes=None if wasm_bytes is None else room_of(wasm_bytes),
                native_bytes=entry.room_bytes,
            )
            self._pruner.promise(name)
        return Compiled(
            path=self._files.native.code(key),
            report=entry.report,
            cached=cached,
            duration_ns=time.monotonic_ns() - began_ns,
            upload_ns=self._upload_times.take(owner, name, now_s=time.monotonic()),
        )

    async def inspect(self, name: str, *, owner: str = "") -> Inspected:
        """Return what an artifact is, which need not be compiled here for that.

        Raises what `compile` raises.
        """
        key = self._files.native.key(name)
        async with self.holding(name):
            entry = await self._files.find_native(name)
            if entry is not None:
                report = entry.report
            elif await self._files.size_bytes(name) is None:
                raise missing(name)
            else:
                with self._pruner.noticing_full_disk(), self._refusing(key):
                    report = await self._compilations.inspect(name, owner)
            self._pruner.promise(name)
        return Inspected(report, self._upload_times.take(owner, name, now_s=time.monotonic()))

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        """Keep an artifact, existing or not, from being removed in the body.

        Waits for a removal in progress. The last one to leave removes an artifact that was refused
        meanwhile. Raises `InvalidArgument` for a bad digest.
        """
        self._files.path(name)
        key = self._files.native.key(name)
        await self._pruner.wait_for_removal(key)
        self.hold(name)
        try:
            yield
        finally:
            self.release(name)
            if self._inventory.is_surplus(key):
                await asyncio.shield(self._pruner.remove(key))

    def hold(self, name: str) -> None:
        """Hold an artifact until `release` was called as often; in `holding` or at start."""
        self._inventory.hold(self._files.native.key(name), name)

    def release(self, name: str) -> None:
        """Release an artifact: the last one makes it the most recently used of the unused."""
        self._inventory.release(self._files.native.key(name))
        self._pruner.used(name)

    def start_pruning(self, limit_bytes: int) -> None:
        """Keep unused artifacts within a limit from now on, in the background.

        Called once, when everybody holds what they need.
        """
        self._pruner.start(limit_bytes)

    @asynccontextmanager
    async def _storing(self, upload: Upload, tenant: str) -> AsyncIterator[None]:
        """Let an upload be written in the body; its file is an artifact in the end, or removed."""
        try:
            with self._pruner.noticing_full_disk():
                yield
        finally:
            # Shielded: a second cancellation must not leave the file behind. On a thread: a
            # cancelled write may still be running, and is awaited.
            await asyncio.shield(self._settle(upload.file, tenant))

    async def _store(self, upload: Upload, name: str, owner: str) -> None:
        upload.check_whole()
        digest = split_name(name)[1]
        await asyncio.to_thread(upload.file.commit, digest, self._files.path(name))
        now_s = time.monotonic()
        self._upload_times.add(owner, name, upload.duration_ns, now_s=now_s)

    async def _settle(self, file: IncomingFile, tenant: str) -> None:
        await asyncio.to_thread(file.discard)
        if file.stored_bytes is not None:
            name = full_name(tenant, file.digest)
            key = self._files.native.key(name)
            self._inventory.put(key, name, wasm_bytes=room_of(file.stored_bytes))
            self._pruner.promise(name)

    @contextmanager
    def _refusing(self, key: str) -> Iterator[None]:
        try:
            yield
        except InvalidArgument:
            # It can never run here, and bad input changes nothing.
            self._inventory.refuse(key)
            raise


def _upload(directory: Path, size_bytes: int, *, limit_bytes: int, grace_s: float) -> Upload:
    return Upload(IncomingFile(directory), size_bytes, limit_bytes=limit_bytes, grace_s=grace_s)
