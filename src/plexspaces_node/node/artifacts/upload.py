"""An upload: checked as it arrives, on the disk completely or not at all.

This module has the temporary file, the minimum speed of an upload, and the reasons to refuse it.
`files` defines where artifacts are stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

from plexspaces_node.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
)
from plexspaces_node.node.disk import lay_out, sync, using_disk

TEMPORARY = ".tmp-"
"""How the name of an incomplete file begins; leftovers of a crash are removed at start."""

LEAST_BYTES_PER_S = 64 * 1024
"""An upload that is slower for longer than its grace period is ended, because only some run at
once."""

_MAGIC = b"\0asm"

_Part = TypeVar("_Part")


class Upload:
    """The bytes of an artifact as they arrive; created by `ArtifactStore.receive`.

    Attributes:
        file: where they are written.
    """

    def __init__(
        self, file: IncomingFile, size_bytes: int, *, limit_bytes: int, grace_s: float
    ) -> None:
        if size_bytes < 1:
            raise InvalidArgument(
                "the artifact is empty", hint="build it again: a .wasm file has at least 8 bytes"
            )
        if size_bytes > limit_bytes:
            raise _too_big(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.file = file
        self._limit_bytes = limit_bytes
        self._received = 0
        self._first_ns = 0
        self._head = b""
        self._loop = asyncio.get_running_loop()
        self._begin_s = self._loop.time()
        # How much longer to wait for it; received bytes add to it.
        self._grace_s = self._patience_s = grace_s
        self._waiting: asyncio.Timeout | None = None
        self._gives_way = False

    def __repr__(self) -> str:
        return f"<Upload {self._received} of {self.size_bytes} bytes>"

    @property
    def bytes_per_s(self) -> float:
        """Its average speed so far."""
        return self._received / max(1e-3, self._loop.time() - self._begin_s)

    @property
    def duration_ns(self) -> int:
        """How long ago the first bytes arrived; at the end, the upload's duration."""
        return time.monotonic_ns() - self._first_ns

    @property
    def digest(self) -> str:
        """The digest of what was written so far; no write may be running."""
        return self.file.digest

    def begin(self) -> None:
        """Start its time, because it did not use any while it waited for others."""
        self._begin_s = self._loop.time()

    def give_way(self) -> bool:
        """End it for others that wait; False if it was ended before."""
        before, self._gives_way = self._gives_way, True
        if self._waiting is not None:
            self._waiting.reschedule(self._loop.time())
        return not before

    async def in_time(self, parts: AsyncIterator[_Part]) -> AsyncIterator[_Part]:
        """Yield the parts of an upload as they arrive, to be written one by one.

        Raises `DeadlineExceeded` if they arrive too slowly, and `ResourceExhausted` if it has to
        give way. Time spent otherwise, such as on the disk, does not count.
        """
        while True:
            asked_s = self._loop.time()
            until_s = asked_s if self._gives_way else asked_s + self._patience_s
            try:
                async with asyncio.timeout_at(until_s) as self._waiting:
                    part = await anext(parts, None)
            except TimeoutError:
                raise self._too_slow() from None
            finally:
                self._waiting = None
            if part is None:
                return
            self._patience_s -= self._loop.time() - asked_s
            yield part

    def _too_slow(self) -> PlexSpacesError:
        came = (
            f"{self._received} of {self.size_bytes} bytes in "
            f"{self._loop.time() - self._begin_s:.0f} s"
        )
        if self._gives_way:
            return ResourceExhausted(
                f"the upload is slow and others are waiting: {came}",
                hint="deploy it again, over a faster connection or a little later",
            )
        return DeadlineExceeded(
            f"the upload is slower than {LEAST_BYTES_PER_S // 1024} KiB a second: {came}",
            hint="deploy it again, over a faster connection",
        )

    async def write(self, chunk: bytes) -> None:
        """Add the next bytes of the file, in order; one call at a time.

        Raises `InvalidArgument` as soon as the bytes cannot become the announced artifact, and
        `ResourceExhausted` if the disk is full. The upload is then over.
        """
        if not self._received:
            self._first_ns = time.monotonic_ns()
        self._received += len(chunk)
        self._patience_s = min(self._grace_s, self._patience_s + len(chunk) / LEAST_BYTES_PER_S)
        if self._received > self._limit_bytes:
            raise _too_big(self._received, self._limit_bytes)
        if self._received > self.size_bytes:
            raise InvalidArgument(
                f"more than the announced {self.size_bytes} bytes were sent",
                hint="the file changed while it was sent; deploy it again",
            )
        if len(self._head) < len(_MAGIC):
            self._head += chunk[: len(_MAGIC) - len(self._head)]
            if not _MAGIC.startswith(self._head):
                raise _not_wasm(self._head)
        await asyncio.to_thread(self.file.write, chunk)

    def check_whole(self) -> None:
        """Raise `InvalidArgument` if bytes are missing."""
        if len(self._head) < len(_MAGIC) and self._received == self.size_bytes:
            raise _not_wasm(self._head)
        if self._received < self.size_bytes:
            raise InvalidArgument(
                f"the upload ended after {self._received} of {self.size_bytes} bytes",
                hint="deploy the file again",
            )


class IncomingFile:
    """A file that becomes an artifact or is removed. Every method blocks; any thread can call it.

    A cancelled call continues in its thread, so a lock keeps its file open until it is done.

    Attributes:
        stored_bytes: size of the artifact that it has become; None before.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None
        self._path: Path | None = None
        self._over = False
        self.stored_bytes: int | None = None

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append bytes; raises `ResourceExhausted` if the disk is full."""
        with self._lock, using_disk(self._directory):
            if self._over:
                return
            if self._file is None:
                descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self._directory)
                self._path, self._file = Path(name), FileIO(descriptor, "w")
            self._hash.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self, digest: str, target: Path) -> None:
        """Become `target`, here or in a directory here; raises `InvalidArgument` for other bytes.

        Safe from a power loss.
        """
        with self._lock, using_disk(self._directory):
            if self._file is None or self._path is None:
                return
            received = self._hash.hexdigest()
            if received != digest:
                raise InvalidArgument(
                    f"the received bytes have digest {received}, but {digest} was announced",
                    hint="the file changed while it was sent; deploy it again",
                )
            os.fsync(self._file.fileno())
            size_bytes = os.fstat(self._file.fileno()).st_size
            lay_out(target.parent)
            self._path.replace(target)
            self.stored_bytes = size_bytes
            sync(target.parent)

    def discard(self) -> None:
        """Remove the file, unless it has become an artifact; nothing can be written any more."""
        with self._lock:
            self._over = True
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            if self._file is not None:
                # A disk may report only now that it was full; the current error says more.
                with suppress(OSError):
                    self._file.close()
                self._file = None


def _not_wasm(head: bytes) -> InvalidArgument:
    return InvalidArgument(
        f"not WebAssembly: the file starts with {head!r}, not {_MAGIC!r}",
        hint="pass the .wasm file from the build with --wasm",
    )


def _too_big(size_bytes: int, limit_bytes: int) -> InvalidArgument:
    return InvalidArgument(
        f"the artifact has {size_bytes} bytes or more, the limit is {limit_bytes}",
        hint="strip it, or raise [limits] artifact_bytes",
    )
