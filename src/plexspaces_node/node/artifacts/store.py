"""Artifacts on disk: the store of WebAssembly files by digest, with what was compiled from them.

This file owns the life of an artifact: taken in, compiled, needed, removed when nobody needs it
and others are more recent. It knows nothing of applications: they say what they hold. How bytes
come in is `incoming`'s business, the cache of native code `native`'s, what goes next `shelf`'s.

    ROOT/artifacts/<sha256>.wasm      what users sent; its time is when it was used last
    ROOT/cache/                       native code made from it, see `native`

Files appear whole, by rename; names that begin with `.tmp-` are leftovers of a crash and are
removed at start. An artifact's native code is removed before the artifact, so that a crash
between the two leaves what is compiled anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from plexspaces_node.artifact_inspection import Inspection
from plexspaces_node.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from plexspaces_node.model import MIB, Language
from plexspaces_node.node.artifacts.compile_queue import Lane, Lanes
from plexspaces_node.node.artifacts.compiler import CompileLimits, compile_to, inspect
from plexspaces_node.node.artifacts.eviction import Item, Shelf
from plexspaces_node.node.artifacts.native_cache import ArtifactReport, Entry, NativeCache
from plexspaces_node.node.artifacts.upload import TEMPORARY, IncomingFile, Upload
from plexspaces_node.node.artifacts.upload_slots import Uploads
from plexspaces_node.node.disk import DiskFull, clear, is_whole, room_of, sync, using_disk
from plexspaces_node.programs import compiler_program
from plexspaces_node.vm.host.vmm import finished

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")

PROMISE_S = 60.0
"""How long somebody who was told that an artifact is here has to deploy it."""

_INSPECTIONS_AT_ONCE = 4
"""Each takes some milliseconds, and none waits for a compilation."""

# Native code measured at two to three times its WebAssembly; a small file has pages of overhead.
_OUTPUT_GROWTH = 16
_OUTPUT_LEAST_BYTES = 64 * MIB

_LANGUAGES = (
    ("python", Language.PYTHON),
    ("javascript", Language.TYPESCRIPT),
    ("typescript", Language.TYPESCRIPT),
    ("go", Language.GO),
    ("rust", Language.RUST),
)
"""Strongest first: interpreters are written in C and Rust, and adapters in Rust lie everywhere."""

_PREINITIALISED = frozenset({"component-init-transform", "wizer"})
"""Tools that freeze a running interpreter: with them, Rust is the interpreter's language."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled artifact.

    Attributes:
        path: of the native code; valid while somebody holds the artifact.
        cached: it was there before this call.
        duration_ns: wall time of this call, waiting for others included.
    """

    path: Path
    report: ArtifactReport
    cached: bool
    duration_ns: int


@dataclass(slots=True)
class _Compilation:
    task: asyncio.Task[Entry]
    waiters: int = 0


class ArtifactStore:
    """The artifacts of a node and what was compiled from them; use as an async context manager.

    Entering makes the directories and removes what a crash or an older engine left; leaving ends
    every compilation and waits until its process is gone. What nobody holds stays until
    `start_pruning` gave it a limit.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int,
        engine: str,
        limits: CompileLimits | None = None,
        compiler: Sequence[str] = (),
    ) -> None:
        self._artifacts = root / "artifacts"
        self._native = NativeCache(root / "cache", engine)
        self._limit_bytes = limit_bytes
        self._limits = limits or CompileLimits()
        self._compiler = tuple(compiler)
        self._output_limit_bytes = max(_OUTPUT_LEAST_BYTES, _OUTPUT_GROWTH * limit_bytes)
        self._lanes = Lanes(self._limits)
        self._inspections = asyncio.Semaphore(_INSPECTIONS_AT_ONCE)
        self._uploads = Uploads()
        # Held while a file is compared with its digest: one thread at most is busy with that.
        self._checking = asyncio.Lock()
        # Compilations others may join, by key; and every task that still runs, joinable or not.
        self._joinable: dict[str, _Compilation] = {}
        self._tasks: set[asyncio.Task[Entry]] = set()
        self._shelf = Shelf(limit_bytes)
        self._removals: dict[str, asyncio.Task[bool]] = {}
        self._pruner: asyncio.Task[None] | None = None
        # What the pruner is to do: look, write down when these were used, spare nothing unused.
        self._look = asyncio.Event()
        self._used: dict[str, int] = {}
        self._disk_full = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<ArtifactStore {self._artifacts.parent} {len(self._tasks)} compiling>"

    async def __aenter__(self) -> Self:
        for found in await asyncio.to_thread(self._prepare):
            self._shelf.put(
                found.key,
                found.digest,
                wasm_bytes=found.wasm_bytes,
                native_bytes=found.native_bytes,
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        await _end_tasks(self._tasks)
        if self._pruner is not None:
            self._pruner.cancel()
            await asyncio.gather(self._pruner, return_exceptions=True)
        await asyncio.gather(*self._removals.values())
        await asyncio.to_thread(self._write_down, self._used)

    @property
    def total_bytes(self) -> int:
        """The room that artifacts and their native code take up on the disk."""
        return self._shelf.total_bytes

    # ---- taking in and compiling -------------------------------------------------------

    async def has(self, digest: str) -> bool:
        """Tell whether the artifact can be deployed; raises `InvalidArgument` for a bad digest.

        If so it stays for `PROMISE_S`. One that is damaged and not compiled is removed.
        """
        path, key = self._artifact(digest), self._native.key(digest)
        if key in self._removals or not path.is_file():
            return False
        async with self.holding(digest):
            if await self._find(key) is None and not await self._is_whole(key, digest):
                return False
            self._promise(key, digest)
            return True

    @asynccontextmanager
    async def receive(
        self, digest: str, size_bytes: int, *, owner: str = ""
    ) -> AsyncIterator[Upload]:
        """Take an artifact in: write its bytes inside the context, leaving it stores the artifact.

        Stored means on disk even after a power loss, and kept for `PROMISE_S` at least. When the
        context is left by an error or a cancellation, or the bytes are not what was announced,
        nothing is stored and the error is raised: `InvalidArgument` for a bad digest, size,
        beginning or content, `ResourceExhausted` for a full disk. Of the same digest several may
        run at once; of all together a bounded number, the others wait for their `owner`'s turn.
        """
        target = self._artifact(digest)
        file = IncomingFile(self._artifacts)
        upload = Upload(file, size_bytes, self._limit_bytes)
        async with self._uploads.place(upload, owner), self.holding(digest):
            try:
                with self._noticing_full_disk():
                    yield upload
                    upload.check_whole()
                    await asyncio.to_thread(file.commit, digest, target)
            finally:
                # Shielded: a second cancellation must not leave the file behind. On a thread: a
                # write that was cancelled may still be under way, and is waited for.
                await asyncio.shield(self._settle(file, digest))

    async def compile(
        self,
        digest: str,
        *,
        owner: str = "",
        check: Callable[[ArtifactReport], None] | None = None,
        on_miss: Callable[[], None] | None = None,
    ) -> Compiled:
        """Return the artifact compiled for this engine, from the cache or compiled now.

        `check` raises for an artifact that is not wanted, before anything is compiled in vain.
        `on_miss` is called when it is not in the cache, before the wait for a compiler. Callers
        that ask for the same artifact at the same time share one compilation, which goes on as
        long as one of them waits; it is compiled when it is the turn of the first one's `owner`.
        Raises `NotFound` when the artifact is not here or damaged,
        `InvalidArgument` when it cannot be run here or breaks the compiler, and goes then as soon
        as nobody holds it, `ResourceExhausted` when it takes too much time, memory or disk;
        nothing of a compilation is left then.
        """
        began_ns = time.monotonic_ns()
        source, key = self._artifact(digest), self._native.key(digest)
        async with self.holding(digest):
            wasm_bytes = await asyncio.to_thread(_size, source)
            entry = await self._find(key)
            cached = entry is not None
            if entry is None:
                if wasm_bytes is None:
                    raise _not_here(digest)
                with self._noticing_full_disk():
                    if check is not None:
                        check(await self._inspect(key, digest))
                    if on_miss is not None:
                        on_miss()
                    entry = await self._join(key, digest, owner)
            elif check is not None:
                check(entry.report)
            self._shelf.put(
                key,
                digest,
                wasm_bytes=None if wasm_bytes is None else room_of(wasm_bytes),
                native_bytes=entry.room_bytes,
            )
            self._promise(key, digest)
        duration_ns = time.monotonic_ns() - began_ns
        return Compiled(self._native.code(key), entry.report, cached, duration_ns)

    # ---- who needs what ----------------------------------------------------------------

    @asynccontextmanager
    async def holding(self, digest: str) -> AsyncIterator[None]:
        """Keep an artifact, here or not yet, from being removed while inside.

        Waits for a removal that is under way. Leaving it as the last one removes an artifact
        that was refused meanwhile. Raises `InvalidArgument` for a bad digest.
        """
        self._artifact(digest)
        key = self._native.key(digest)
        while (removal := self._removals.get(key)) is not None:
            await asyncio.wait({removal})
        self.hold(digest)
        try:
            yield
        finally:
            self.release(digest)
            if self._shelf.is_surplus(key):
                await asyncio.shield(self._start_removal(key))

    def hold(self, digest: str) -> None:
        """Keep an artifact until `release` was called as often; inside `holding` or at start."""
        self._shelf.hold(self._native.key(digest), digest)

    def release(self, digest: str) -> None:
        """Let go of an artifact: the last to do so makes it the one used last of the unused."""
        key = self._native.key(digest)
        self._shelf.release(key)
        self._mark_used(digest)

    def start_pruning(self, limit_bytes: int) -> None:
        """Keep what nobody holds within a limit from now on, in the background.

        Called once, when everybody holds what they need.
        """
        self._pruner = asyncio.create_task(self._prune(limit_bytes), name="prune artifacts")
        self._pruner.add_done_callback(_pruner_ended)

    # ---- within ------------------------------------------------------------------------

    def _artifact(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidArgument(
                f"digest {digest!r} is not 64 lowercase hexadecimal digits", hint="sha256sum FILE"
            )
        return self._artifacts / f"{digest}.wasm"

    def _prepare(self) -> list[_Found]:
        found: dict[str, _Found] = {}
        with using_disk(self._artifacts.parent):
            for directory in (self._artifacts, self._native.directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for leftover in directory.glob(f"{TEMPORARY}*"):
                    clear(leftover)
            sync(self._artifacts.parent)
            for path in self._artifacts.glob("*.wasm"):
                if _DIGEST.fullmatch(path.stem):
                    status, key = path.stat(), self._native.key(path.stem)
                    found[key] = _Found(key, path.stem, status.st_mtime, room_of(status.st_size))
            for key, entry, used_s in self._native.prune():
                # Code may be all there is, when somebody tidied up by hand.
                known = found.setdefault(key, _Found(key, "", used_s, 0))
                known.native_bytes = entry.room_bytes
        return sorted(found.values(), key=lambda one: (one.used_s, one.key))

    async def _settle(self, file: IncomingFile, digest: str) -> None:
        await asyncio.to_thread(file.discard)
        if file.stored_bytes is not None:
            key = self._native.key(digest)
            self._shelf.put(key, digest, wasm_bytes=room_of(file.stored_bytes))
            self._promise(key, digest)

    async def _find(self, key: str) -> Entry | None:
        async with self._checking:
            # To its end: what is damaged must not be removed after it was compiled anew.
            entry = await finished(asyncio.to_thread(self._native.find, key))
        if entry is None:
            self._shelf.put(key, native_bytes=0)
        return entry

    async def _is_whole(self, key: str, digest: str) -> bool:
        """Compare an artifact that is held with its digest; one that differs is removed."""
        async with self._checking:
            if await finished(asyncio.to_thread(_keep_whole, self._artifact(digest), digest)):
                return True
        self._shelf.put(key, wasm_bytes=0)
        return False

    async def _inspect(self, key: str, digest: str) -> ArtifactReport:
        async with self._inspections:
            if not await self._is_whole(key, digest):
                raise _not_here(digest)
            with self._refusing(key):
                program = await self._program()
                source, scratch = self._artifact(digest), self._native.directory
                return _report(await inspect(program, source, scratch, limits=self._limits))

    async def _program(self) -> Sequence[str]:
        return self._compiler or (str(await asyncio.to_thread(compiler_program)),)

    @contextmanager
    def _refusing(self, key: str) -> Iterator[None]:
        try:
            yield
        except InvalidArgument:
            # It can never run here, and bad input changes nothing.
            self._shelf.refuse(key)
            raise

    async def _join(self, key: str, digest: str, owner: str) -> Entry:
        if self._closed:
            raise Unavailable("the artifact store is closed", hint="the node is stopping")
        compilation = self._joinable.get(key)
        if compilation is None:
            compilation = _Compilation(asyncio.create_task(self._compile(key, digest, owner)))
            self._joinable[key] = compilation
            self._tasks.add(compilation.task)
            compilation.task.add_done_callback(self._tasks.discard)
        compilation.waiters += 1
        try:
            return await asyncio.shield(compilation.task)
        finally:
            compilation.waiters -= 1
            if compilation.waiters == 0:
                if self._joinable.get(key) is compilation:
                    del self._joinable[key]
                await _end_tasks({compilation.task})

    async def _compile(self, key: str, digest: str, owner: str) -> Entry:
        size_bytes = await asyncio.to_thread(_size, self._artifact(digest)) or 0
        *tried, last = self._lanes.of(size_bytes)
        for lane in tried:
            try:
                return await self._compile_in(lane, key, digest, owner)
            except DiskFull:
                raise
            except ResourceExhausted:
                _log.info("artifact %s needs more than a short compilation may use", digest)
        return await self._compile_in(last, key, digest, owner)

    async def _compile_in(self, lane: Lane, key: str, digest: str, owner: str) -> Entry:
        async with lane.turns.place(owner):
            # Another compilation of it may have ended while this one waited for its turn.
            if (entry := await self._find(key)) is not None:
                return entry
            if not await self._is_whole(key, digest):
                raise _not_here(digest)
            output = self._native.scratch()
            try:
                with self._refusing(key):
                    said = await compile_to(
                        await self._program(),
                        self._artifact(digest),
                        output,
                        limits=lane.limits,
                        output_limit_bytes=self._output_limit_bytes,
                    )
                # To its end: what it would make after the cleaning up would not be counted.
                return await finished(
                    asyncio.to_thread(self._native.keep, output, key, _report(said))
                )
            finally:
                await asyncio.shield(asyncio.to_thread(output.unlink, missing_ok=True))

    # ---- removing ----------------------------------------------------------------------

    @contextmanager
    def _noticing_full_disk(self) -> Iterator[None]:
        try:
            yield
        except DiskFull:
            self._disk_full = True
            self._look.set()
            raise

    def _promise(self, key: str, digest: str) -> None:
        self._shelf.promise(key, time.monotonic() + PROMISE_S)
        self._mark_used(digest)

    def _mark_used(self, digest: str) -> None:
        self._used[digest] = time.time_ns()
        self._look.set()

    async def _prune(self, limit_bytes: int) -> None:
        while True:
            self._look.clear()
            used, self._used = self._used, {}
            await finished(asyncio.to_thread(self._write_down, used))
            # What is kept for a later deploy is worth nothing when there is no room for this one.
            target_bytes = 0 if self._disk_full else limit_bytes
            self._disk_full = False
            while (key := self._shelf.surplus(target_bytes, time.monotonic())) is not None:
                if not await asyncio.shield(self._start_removal(key)):
                    break
            with suppress(TimeoutError):
                # Only promises keep it over the limit then, and they end.
                over = self._shelf.idle_bytes > limit_bytes
                async with asyncio.timeout(PROMISE_S if over else None):
                    await self._look.wait()

    def _write_down(self, used: Mapping[str, int]) -> None:
        # For the order after the next start; to lose it costs a compilation at most.
        for digest, used_ns in used.items():
            with suppress(OSError):
                os.utime(self._artifact(digest), ns=(used_ns, used_ns))

    def _start_removal(self, key: str) -> asyncio.Task[bool]:
        # From here on it is not here for anybody; whoever wants it back waits until it is gone.
        removal = asyncio.create_task(self._remove(key, self._shelf.take(key)))
        self._removals[key] = removal
        return removal

    async def _remove(self, key: str, item: Item) -> bool:
        try:
            await asyncio.to_thread(self._unlink, key, item.digest)
        except OSError as error:
            _log.warning("artifact %s cannot be removed: %s", item.digest or key, error)
            # As the one used last: it must not keep others from being removed.
            self._shelf.put(
                key, item.digest, wasm_bytes=item.wasm_bytes, native_bytes=item.native_bytes
            )
            return False
        else:
            _log.info("removed artifact %s, %d bytes", item.digest or key, item.size_bytes)
            return True
        finally:
            del self._removals[key]

    def _unlink(self, key: str, digest: str) -> None:
        self._native.remove(key)
        if digest:
            self._artifact(digest).unlink(missing_ok=True)


@dataclass(slots=True)
class _Found:
    """What a start finds of an artifact."""

    key: str
    digest: str
    used_s: float
    wasm_bytes: int
    native_bytes: int = 0


def check_language(report: ArtifactReport, said: Language | None) -> Language:
    """Return the language of an artifact, given what its binary tells and what the user said.

    Raises `InvalidArgument` naming both when they contradict each other. A user who said nothing
    gets what the binary tells, which may be unknown.
    """
    if said is None or said is Language.UNKNOWN:
        return report.language
    if report.language not in (Language.UNKNOWN, said):
        raise InvalidArgument(
            f"the artifact was written in {report.language}, not in {said}",
            hint=f"deploy it with --language {report.language}, or omit --language",
        )
    return said


async def _end_tasks(tasks: set[asyncio.Task[Entry]]) -> None:
    for task in tasks:
        # Once is enough: a second cancellation would interrupt its cleaning up.
        if not task.done() and not task.cancelling():
            task.cancel()
    if tasks:
        await asyncio.wait(set(tasks))


def _report(said: Inspection) -> ArtifactReport:
    return ArtifactReport(
        kind=said.kind,
        language=_language(said),
        imports=tuple(said.imports),
        exports=tuple(said.exports),
        memory_bytes=said.memory_bytes,
    )


def _language(said: Inspection) -> Language:
    told = {name.lower() for name in said.languages}
    for name, language in _LANGUAGES:
        if name in told:
            frozen = _PREINITIALISED.intersection(said.processed_by)
            return Language.UNKNOWN if language is Language.RUST and frozen else language
    return Language.UNKNOWN


def _not_here(digest: str) -> NotFound:
    hint = "deploy its file again, under any name"
    return NotFound(f"artifact {digest} is missing or corrupt", hint=hint)


def _keep_whole(path: Path, digest: str) -> bool:
    with using_disk(path.parent), suppress(FileNotFoundError):
        if is_whole(path, digest):
            return True
        _log.warning("artifact %s is corrupt: removed", path)
        path.unlink()
    return False


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _pruner_ended(pruner: asyncio.Task[None]) -> None:
    if not pruner.cancelled():
        _log.error("unused artifacts are no longer removed", exc_info=pruner.exception())
