"""Artifacts on disk: the store of WebAssembly files by digest, and the cache of compiled ones.

This file owns both layouts and what is read from a compiler's report. It knows nothing of
applications, nor how the compiler is run (`compiler`).

    ROOT/artifacts/<sha256>.wasm      what users sent
    ROOT/cache/<key>.cwasm            native code made from it by the compiler, never by a user
    ROOT/cache/<key>.json             its report, written last: without it the entry is not valid

A key is made of the artifact's digest and the engine's identity. Files appear whole, by rename;
names that begin with `.tmp-` are leftovers of a crash and are removed at start.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Self

import msgspec

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from plexspaces_node.model import MIB, ArtifactKind, Language
from plexspaces_node.node.compiler import COMPILER, CompileLimits, CompilerReport, run_compiler

_MAGIC = b"\0asm"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".tmp-"

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
class ArtifactReport:
    """What the compiler found an artifact to be.

    Attributes:
        language: what it was written in as far as the binary tells, else unknown.
        imports: names it imports: interfaces of a component, modules of a core module.
        exports: names it exports.
    """

    kind: ArtifactKind
    language: Language
    imports: tuple[str, ...] = field(repr=False)
    exports: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled artifact.

    Attributes:
        path: of the native code; valid while the store is open.
        cached: it was there before this call.
        duration_ns: wall time of this call, waiting for others included.
    """

    path: Path
    report: ArtifactReport
    cached: bool
    duration_ns: int


class _Entry(msgspec.Struct, frozen=True):
    """What lies beside native code in the cache."""

    engine: str
    size_bytes: int
    report: ArtifactReport


@dataclass(slots=True)
class _Compilation:
    task: asyncio.Task[ArtifactReport]
    waiters: int = 0


class Upload:
    """An artifact on its way in; made by `ArtifactStore.receive`."""

    def __init__(self, file: _IncomingFile, size_bytes: int, limit_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        self._received = 0
        self._head = b""

    async def write(self, chunk: bytes) -> None:
        """Add the next bytes of the file, in order; one call at a time.

        Raises `InvalidArgument` as soon as the bytes cannot become the artifact announced, and
        `ResourceExhausted` when the disk is full. The upload is over then.
        """
        self._received += len(chunk)
        if self._received > self._limit_bytes:
            raise _too_big(self._received, self._limit_bytes)
        if self._received > self._size_bytes:
            raise InvalidArgument(
                f"more than the announced {self._size_bytes} bytes were sent",
                hint="the file changed while it was sent; deploy it again",
            )
        if len(self._head) < len(_MAGIC):
            self._head += chunk[: len(_MAGIC) - len(self._head)]
            if not _MAGIC.startswith(self._head):
                raise _not_wasm(self._head)
        await asyncio.to_thread(self._file.write, chunk)

    def check_whole(self) -> None:
        """Raise `InvalidArgument` when bytes are missing."""
        if len(self._head) < len(_MAGIC) and self._received == self._size_bytes:
            raise _not_wasm(self._head)
        if self._received < self._size_bytes:
            raise InvalidArgument(
                f"the upload ended after {self._received} of {self._size_bytes} bytes",
                hint="deploy the file again",
            )


class ArtifactStore:
    """The artifacts of a node and what was compiled from them; use as an async context manager.

    Entering makes the directories and removes what a crash or an older engine left; leaving ends
    every compilation and waits until its process is gone.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int,
        engine: str,
        limits: CompileLimits | None = None,
        compiler: Sequence[str] = COMPILER,
    ) -> None:
        self._artifacts = root / "artifacts"
        self._cache = root / "cache"
        self._limit_bytes = limit_bytes
        self._engine = engine
        self._limits = limits or CompileLimits()
        self._compiler = tuple(compiler)
        self._numbers = itertools.count()
        self._slots = asyncio.Semaphore(self._limits.at_once)
        # Compilations others may join, by key; and every task that still runs, joinable or not.
        self._joinable: dict[str, _Compilation] = {}
        self._tasks: set[asyncio.Task[ArtifactReport]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ArtifactStore {self._artifacts.parent} {len(self._tasks)} compiling>"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        await _end_tasks(self._tasks)

    def has(self, digest: str) -> bool:
        """Tell whether the artifact is here, whole; raises `InvalidArgument` for a bad digest."""
        return self._artifact(digest).is_file()

    @asynccontextmanager
    async def receive(self, digest: str, size_bytes: int) -> AsyncIterator[Upload]:
        """Take an artifact in: write its bytes inside the context, leaving it stores the artifact.

        Stored means on disk even after a power loss. When the context is left by an error or a
        cancellation, or the bytes are not what was announced, nothing is stored and the error is
        raised: `InvalidArgument` for a bad digest, size, beginning or content. Any number of
        uploads may run at once, of the same digest too.
        """
        target = self._artifact(digest)
        if size_bytes < 1:
            raise InvalidArgument(
                "the artifact is empty", hint="build it again: a .wasm file has at least 8 bytes"
            )
        if size_bytes > self._limit_bytes:
            raise _too_big(size_bytes, self._limit_bytes)
        file = _IncomingFile(self._artifacts)
        try:
            upload = Upload(file, size_bytes, self._limit_bytes)
            yield upload
            upload.check_whole()
            await asyncio.to_thread(file.commit, digest, target)
        finally:
            # Shielded: a second cancellation must not leave the file behind. On a thread: a
            # write that was cancelled may still be under way, and is waited for.
            await asyncio.shield(asyncio.to_thread(file.discard))

    async def remove(self, digest: str) -> None:
        """Remove an artifact that nothing uses; silent when it is not here."""
        await asyncio.to_thread(self._artifact(digest).unlink, missing_ok=True)

    async def compile(self, digest: str) -> Compiled:
        """Return the artifact compiled for this engine, from the cache or compiled now.

        Callers that ask for the same artifact at the same time share one compilation, which goes
        on as long as one of them waits. Raises `NotFound` when the artifact is not here,
        `InvalidArgument` when it cannot be run or breaks the compiler, `ResourceExhausted` when
        it takes too much time or memory; nothing is left then.
        """
        began_ns = time.monotonic_ns()
        present = self.has(digest)
        key = hashlib.sha256(f"{digest}\n{self._engine}".encode()).hexdigest()
        target = self._cache / f"{key}.cwasm"
        report = await asyncio.to_thread(self._cached, target)
        cached = report is not None
        if report is None:
            if not present:
                raise NotFound(f"there is no artifact {digest}", hint="upload it first")
            report = await self._join(key, self._artifact(digest), target)
        return Compiled(target, report, cached, time.monotonic_ns() - began_ns)

    def _artifact(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidArgument(
                f"digest {digest!r} is not 64 lowercase hexadecimal digits", hint="sha256sum FILE"
            )
        return self._artifacts / f"{digest}.wasm"

    def _prepare(self) -> None:
        with _disk(self._artifacts.parent):
            for directory in (self._artifacts, self._cache):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for leftover in directory.glob(f"{_TEMPORARY}*"):
                    leftover.unlink()
            _sync(self._artifacts.parent)
            self._prune()

    def _prune(self) -> None:
        for path in list(self._cache.iterdir()):
            code, note = path.with_suffix(".cwasm"), path.with_suffix(".json")
            entry = _read_entry(note)
            if entry is None or entry.engine != self._engine or not code.exists():
                note.unlink(missing_ok=True)
                code.unlink(missing_ok=True)

    def _cached(self, target: Path) -> ArtifactReport | None:
        entry = _read_entry(target.with_suffix(".json"))
        try:
            status = target.stat()
        except FileNotFoundError:
            return None
        # It will be run as native code, so it must be what this user wrote, whole.
        trusted = status.st_uid == os.geteuid() and not status.st_mode & (
            stat.S_IWGRP | stat.S_IWOTH
        )
        if entry is None or not trusted or status.st_size != entry.size_bytes:
            return None
        return entry.report

    async def _join(self, key: str, source: Path, target: Path) -> ArtifactReport:
        if self._closed:
            raise Unavailable("the artifact store is closed", hint="the node is stopping")
        compilation = self._joinable.get(key)
        if compilation is None:
            compilation = _Compilation(asyncio.create_task(self._compile(source, target)))
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

    async def _compile(self, source: Path, target: Path) -> ArtifactReport:
        async with self._slots:
            # Another compilation of it may have ended while this one waited for its turn.
            report = await asyncio.to_thread(self._cached, target)
            if report is not None:
                return report
            output = target.with_name(f"{_TEMPORARY}{next(self._numbers)}.cwasm")
            try:
                said = await run_compiler(
                    self._compiler,
                    source,
                    output,
                    limits=self._limits,
                    output_limit_bytes=max(_OUTPUT_LEAST_BYTES, _OUTPUT_GROWTH * self._limit_bytes),
                )
                report = _report(said)
                await asyncio.to_thread(_keep, output, target, self._engine, report)
            finally:
                await asyncio.shield(asyncio.to_thread(output.unlink, missing_ok=True))
            return report


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
            hint=f"deploy it with --language {report.language}, or leave --language out",
        )
    return said


class _IncomingFile:
    """A file that becomes an artifact or vanishes. Every method blocks; any thread may call it.

    A cancelled call goes on in its thread, so a lock keeps its file open until it is done.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None
        self._path: Path | None = None
        self._over = False

    def write(self, chunk: bytes) -> None:
        with self._lock, _disk(self._directory):
            if self._over:
                return
            if self._file is None:
                descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._directory)
                self._path, self._file = Path(name), FileIO(descriptor, "w")
            self._hash.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self, digest: str, target: Path) -> None:
        with self._lock, _disk(self._directory):
            if self._file is None or self._path is None:
                return
            received = self._hash.hexdigest()
            if received != digest:
                raise InvalidArgument(
                    f"the bytes received have digest {received}, announced was {digest}",
                    hint="the file changed while it was sent; deploy it again",
                )
            os.fsync(self._file.fileno())
            self._path.replace(target)
            _sync(self._directory)

    def discard(self) -> None:
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()
                self._file = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)


async def _end_tasks(tasks: set[asyncio.Task[ArtifactReport]]) -> None:
    for task in tasks:
        # Once is enough: a second cancellation would interrupt its cleaning up.
        if not task.done() and not task.cancelling():
            task.cancel()
    if tasks:
        await asyncio.wait(set(tasks))


def _report(said: CompilerReport) -> ArtifactReport:
    return ArtifactReport(said.kind, _language(said), tuple(said.imports), tuple(said.exports))


def _language(said: CompilerReport) -> Language:
    told = {name.lower() for name in said.languages}
    for name, language in _LANGUAGES:
        if name in told:
            frozen = _PREINITIALISED.intersection(said.processed_by)
            return Language.UNKNOWN if language is Language.RUST and frozen else language
    return Language.UNKNOWN


def _keep(output: Path, target: Path, engine: str, report: ArtifactReport) -> None:
    with _disk(target.parent):
        try:
            size_bytes = output.stat().st_size
        except FileNotFoundError as error:
            raise Internal("the compiler reported success and wrote nothing") from error
        output.chmod(0o600)
        _sync(output)
        output.replace(target)
        # The report makes the entry valid, so it must not reach the disk before the code.
        _sync(target.parent)
        note = output.with_suffix(".json")
        note.touch(mode=0o600)
        note.write_bytes(msgspec.json.encode(_Entry(engine, size_bytes, report)))
        _sync(note)
        note.replace(target.with_suffix(".json"))


def _read_entry(path: Path) -> _Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _not_wasm(head: bytes) -> InvalidArgument:
    return InvalidArgument(
        f"not WebAssembly: the file begins with {head!r}, not {_MAGIC!r}",
        hint="pass the .wasm file that the build made with --wasm",
    )


def _too_big(size_bytes: int, limit_bytes: int) -> InvalidArgument:
    return InvalidArgument(
        f"the artifact has {size_bytes} bytes or more, the limit is {limit_bytes}",
        hint="strip it, or raise [limits] artifact_bytes",
    )


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"no space left in {path}", hint=f"df -h {path}") from error
        raise Unavailable(f"the disk failed in {path}: {error.strerror}", hint="dmesg") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
