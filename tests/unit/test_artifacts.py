"""The artifact store: what is taken in, what is compiled, and what is left when it goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_compiler import BEGIN, fake_compiler
from support.patience import patient

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.report import ArtifactReport, check_language
from plexspaces_node.node.artifacts.store import ArtifactStore

WASM = b"\0asm" + bytes(range(256)) * 20
DIGEST = hashlib.sha256(WASM).hexdigest()

COMPILED = """
def compiled(**more):
    target.write_bytes(b"native " + source.read_bytes())
    with open(here / "compiled", "a") as file:
        file.write("x")
    say(ok=True, kind="actor", languages=["Rust"], imports=["i"], exports=["e"], engine="x", **more)
"""
"""What a compiler does that has nothing to say against an artifact."""


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(root: Path) -> list[str]:
    """Files of the store that are neither an artifact nor a valid cache entry."""
    notes = {file.stem for file in (root / "cache").rglob("*.json")}
    return [
        file.name
        for directory in ("artifacts", "cache")
        for file in (root / directory).rglob("*")
        if file.is_file()
        and file.suffix != ".wasm"
        and (file.stem not in notes or file.name.startswith("."))
    ]


def processes_of(root: Path) -> list[int]:
    """Processes whose command line names a file of the store."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root).encode() in command:
                found.append(int(entry.name))
    return found


async def all_gone(root: Path) -> None:
    """Wait until the kernel has done away with what was killed."""
    async with asyncio.timeout(patient(10)):
        while processes_of(root):
            await asyncio.sleep(0.005)


async def upload(
    store: ArtifactStore, data: bytes = WASM, *, chunk: int = 1000, announced: int | None = None
) -> str:
    digest = digest_of(data)
    async with store.receive(digest, announced or len(data)) as incoming:
        for at in range(0, len(data), chunk):
            await incoming.write(data[at : at + chunk])
    return digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@asynccontextmanager
async def opened(
    root: Path, program: str = "compiled()", *, engine: str = "e1", limits: CompileLimits
) -> AsyncIterator[ArtifactStore]:
    """Open a store whose compiler runs `program`; check at the end that nothing is left."""
    command = fake_compiler(COMPILED + program)
    async with ArtifactStore(
        root, limit_bytes=100_000, engine=engine, limits=limits, compiler=command
    ) as store:
        yield store
    assert leftovers(root) == []
    await all_gone(root)


LIMITS = CompileLimits(timeout_s=30, memory_mib=512)


@pytest.fixture
async def store(root: Path) -> AsyncIterator[ArtifactStore]:
    async with opened(root, limits=LIMITS) as one:
        yield one


class TestReceive:
    @pytest.mark.parametrize("chunk", [1, 1000, 1_000_000])
    async def test_receive_when_whole_then_stored_under_its_digest(
        self, store: ArtifactStore, root: Path, chunk: int
    ) -> None:
        """An artifact arrives byte for byte however it is cut, readable by its owner only."""
        data = WASM[: 50 if chunk == 1 else None]
        assert not await store.has(digest_of(data))
        digest = await upload(store, data, chunk=chunk)
        assert await store.has(digest)
        file = root / "artifacts" / f"{digest}.wasm"
        assert file.read_bytes() == data
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [file.name for file in (root / "artifacts").iterdir()] == [f"{digest}.wasm"]

    async def test_receive_when_nobody_said_the_digest_then_it_is_known_in_the_end(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """It is stored as any other, and can be deployed for a while."""
        async with store.receive_unnamed("default", len(WASM)) as incoming:
            await incoming.write(WASM[:100])
            assert [file.name[:5] for file in (root / "artifacts").iterdir()] == [".tmp-"]
            await incoming.write(WASM[100:])
        assert incoming.digest == DIGEST
        assert await store.has(DIGEST)
        assert store.total_bytes > 0

    async def test_receive_when_nobody_said_the_digest_and_it_ends_early_then_nothing_is_stored(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """Neither the file nor a record of it."""
        with pytest.raises(InvalidArgument, match="ended after 100"):
            async with store.receive_unnamed("default", len(WASM)) as incoming:
                await incoming.write(WASM[:100])
        assert list((root / "artifacts").iterdir()) == []
        assert store.total_bytes == 0

    async def test_receive_when_two_send_the_same_then_both_succeed(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """Concurrent uploads of one artifact do not disturb each other."""
        await asyncio.gather(*(upload(store, chunk=n) for n in (300, 500, 700)))
        assert (root / "artifacts" / f"{DIGEST}.wasm").read_bytes() == WASM

    async def test_receive_when_the_bytes_differ_then_nothing_is_stored(
        self, store: ArtifactStore
    ) -> None:
        """Bytes with another digest than announced are refused with both digests."""
        other = WASM[:-1] + b"!"
        with pytest.raises(InvalidArgument, match=f"{digest_of(other)}, but {DIGEST}"):
            async with store.receive(DIGEST, len(WASM)) as incoming:
                await incoming.write(other)
        assert not await store.has(DIGEST)

    async def test_receive_when_it_ends_early_then_nothing_is_stored(
        self, store: ArtifactStore
    ) -> None:
        """A stream that ends before the announced size is refused with both sizes."""
        with pytest.raises(InvalidArgument, match=f"after 100 of {len(WASM)} bytes"):
            async with store.receive(DIGEST, len(WASM)) as incoming:
                await incoming.write(WASM[:100])
        assert not await store.has(DIGEST)

    async def test_receive_when_more_comes_than_announced_then_refused_at_once(
        self, store: ArtifactStore
    ) -> None:
        """A stream cannot be longer than its header said."""
        with pytest.raises(InvalidArgument, match="announced 100 bytes"):
            await upload(store, chunk=60, announced=100)

    @pytest.mark.parametrize(
        ("size_bytes", "message"), [(0, "empty"), (-1, "empty"), (100_001, "100001.*100000")]
    )
    async def test_receive_when_the_header_is_impossible_then_refused_before_any_byte(
        self, store: ArtifactStore, size_bytes: int, message: str
    ) -> None:
        """An empty or too big file is refused on its announced size."""
        with pytest.raises(InvalidArgument, match=message) as caught:
            async with store.receive(DIGEST, size_bytes):
                pytest.fail("the body must not run")
        assert caught.value.hint

    @pytest.mark.parametrize("first", [b"#!/bin/sh\n", b"\0as", b"\x7fELF", b"\0", b"\0asn"])
    async def test_receive_when_it_is_not_wasm_then_refused_at_its_first_bytes(
        self, store: ArtifactStore, first: bytes
    ) -> None:
        """A file of another kind is refused by how it begins, and shown what that is."""
        with pytest.raises(InvalidArgument, match="not WebAssembly") as caught:
            await upload(store, first, chunk=1)
        assert "--wasm" in (caught.value.hint or "")
        assert not await store.has(digest_of(first))

    @pytest.mark.parametrize("digest", ["", "AB" * 32, "../" + "a" * 61, "ab" * 32 + "\n"])
    async def test_digest_when_it_is_none_then_refused_everywhere(
        self, store: ArtifactStore, digest: str
    ) -> None:
        """A digest becomes a file name, so nothing else than 64 hexadecimal digits passes."""
        with pytest.raises(InvalidArgument, match="hexadecimal"):
            await store.has(digest)
        with pytest.raises(InvalidArgument, match="hexadecimal"):
            async with store.receive(digest, 10):
                pass
        with pytest.raises(InvalidArgument, match="hexadecimal"):
            await store.compile(digest)

    async def test_receive_when_the_client_goes_away_then_nothing_is_left(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """An upload cancelled in the middle leaves no file."""
        begun = asyncio.Event()

        async def send() -> None:
            async with store.receive(DIGEST, len(WASM)) as incoming:
                await incoming.write(WASM[:1000])
                begun.set()
                await asyncio.sleep(60)

        sending = asyncio.ensure_future(send())
        await begun.wait()
        assert len(leftovers(root)) == 1
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert leftovers(root) == []
        assert not await store.has(DIGEST)

    async def test_receive_when_cancelled_while_writing_then_nothing_is_left(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """A cancellation at any moment of an upload leaves the whole artifact or nothing."""
        for steps in range(40):
            sending = asyncio.ensure_future(upload(store))
            for _ in range(steps):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            assert leftovers(root) == []

    async def test_receive_when_the_disk_is_full_then_said_so_and_nothing_is_left(
        self, store: ArtifactStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk is a bound that was reached, with the command that shows it."""

        def full(**_: object) -> tuple[int, str]:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tempfile, "mkstemp", full)
        with pytest.raises(ResourceExhausted, match="no space left") as caught:
            await upload(store)
        assert caught.value.hint == f"df -h {root}/artifacts"
        assert leftovers(root) == []

    async def test_open_when_a_crash_left_files_then_only_those_are_removed(
        self, root: Path
    ) -> None:
        """What a killed node left half done is gone after the next start, the rest is kept."""
        async with opened(root, limits=LIMITS) as store:
            await upload(store)
            compiled = await store.compile(DIGEST)
        (root / "artifacts" / ".tmp-abc").write_bytes(b"half")
        (root / "cache" / ".tmp-0.cwasm").write_bytes(b"half")
        (root / "cache" / f"{'1' * 64}.cwasm").write_bytes(b"its report was never written")
        (root / "cache" / f"{'2' * 64}.json").write_bytes(b"{}")
        async with opened(root, limits=LIMITS) as store:
            assert leftovers(root) == []
            assert await store.has(DIGEST)
            assert (await store.compile(DIGEST)).cached
        assert sorted(file.stem for file in (root / "cache").iterdir()) == [compiled.path.stem] * 2


class TestCompile:
    async def test_compile_when_its_caller_uploaded_it_then_that_is_measured_once(
        self, store: ArtifactStore
    ) -> None:
        """The node times what it receives; an artifact that was here already took no time."""
        begin_ns = time.monotonic_ns()
        async with store.receive(DIGEST, len(WASM), owner="me") as incoming:
            await incoming.write(WASM)
        took_ns = time.monotonic_ns() - begin_ns
        assert (await store.compile(DIGEST, owner="other")).upload_ns == 0
        assert 0 < (await store.compile(DIGEST, owner="me")).upload_ns <= took_ns
        assert (await store.compile(DIGEST, owner="me")).upload_ns == 0

    async def test_compile_when_new_then_compiled_and_when_again_then_cached(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """The first call compiles, the next finds the same code and report in the cache."""
        await upload(store)
        first = await store.compile(DIGEST)
        assert first.path.read_bytes() == b"native " + WASM
        assert first.report == ArtifactReport(ArtifactKind.ACTOR, Language.RUST, ("i",), ("e",))
        assert not first.cached
        assert first.duration_ns > 0
        second = await store.compile(DIGEST)
        assert second.cached
        assert (second.path, second.report) == (first.path, first.report)
        assert (root / "compiled").read_text() == "x"

    async def test_compile_when_cached_then_on_miss_is_not_called(
        self, store: ArtifactStore
    ) -> None:
        """Whoever shows that a compiler runs is told only when one does."""
        await upload(store)
        told: list[str] = []
        await store.compile(DIGEST, on_miss=lambda: told.append("first"))
        await store.compile(DIGEST, on_miss=lambda: told.append("second"))
        assert told == ["first"]

    async def test_compile_when_done_then_nobody_else_can_read_or_replace_the_code(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """Native code lies in a directory and files of its owner alone."""
        await upload(store)
        compiled = await store.compile(DIGEST)
        assert stat.S_IMODE((root / "cache").stat().st_mode) == 0o700
        assert {stat.S_IMODE(f.stat().st_mode) for f in (root / "cache").iterdir()} == {0o600}
        compiled.path.chmod(0o666)
        assert not (await store.compile(DIGEST)).cached

    async def test_compile_when_the_cached_code_was_cut_then_compiled_anew(
        self, store: ArtifactStore
    ) -> None:
        """Code that is not as long as its report says is never handed out."""
        await upload(store)
        compiled = await store.compile(DIGEST)
        os.truncate(compiled.path, 5)
        again = await store.compile(DIGEST)
        assert not again.cached
        assert again.path.read_bytes() == b"native " + WASM

    async def test_compile_when_the_engine_changed_then_compiled_anew_and_the_old_removed(
        self, root: Path
    ) -> None:
        """Code of another engine is neither used nor kept."""
        async with opened(root, limits=LIMITS) as store:
            await upload(store)
            first = await store.compile(DIGEST)
        async with opened(root, engine="e2", limits=LIMITS) as store:
            assert not first.path.exists()
            second = await store.compile(DIGEST)
        assert not second.cached
        assert second.path != first.path
        assert len(list((root / "cache").iterdir())) == 2

    async def test_compile_when_the_artifact_is_not_here_then_not_found(
        self, store: ArtifactStore
    ) -> None:
        """There is nothing to compile before the upload."""
        with pytest.raises(NotFound, match=DIGEST):
            await store.compile(DIGEST)

    async def test_compile_when_many_ask_then_one_process_serves_all(self, root: Path) -> None:
        """Callers at the same time share one compilation, also when one of them goes away."""
        program = "while not (here / 'go').exists(): time.sleep(0.01)\ncompiled()"
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            callers = [asyncio.ensure_future(store.compile(DIGEST)) for _ in range(5)]
            while not processes_of(root):
                await asyncio.sleep(0.01)
            callers[0].cancel()
            await asyncio.wait([callers[0]])
            assert "1 compiling" in repr(store)
            (root / "go").touch()
            results = await asyncio.gather(*callers[1:])
            assert {result.path.read_bytes() for result in results} == {b"native " + WASM}
            assert (root / "compiled").read_text() == "x"

    async def test_compile_when_nobody_waits_any_more_then_its_processes_are_ended(
        self, root: Path
    ) -> None:
        """The last caller that goes away takes the compiler and its children along."""
        program = "os.fork()\n(here / str(os.getpid())).touch()\ntime.sleep(60)"
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            caller = asyncio.ensure_future(store.compile(DIGEST))
            while len([p for p in root.iterdir() if p.name.isdigit()]) < 2:
                await asyncio.sleep(0.01)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await all_gone(root)
            assert leftovers(root) == []
            assert "0 compiling" in repr(store)

    async def test_compile_when_the_store_is_left_then_ended_and_refused(self, root: Path) -> None:
        """Leaving the store ends what compiles; nothing begins afterwards."""
        async with opened(root, "time.sleep(60)", limits=LIMITS) as store:
            await upload(store)
            caller = asyncio.ensure_future(store.compile(DIGEST))
            while not processes_of(root):
                await asyncio.sleep(0.01)
        await asyncio.wait([caller])
        assert caller.cancelled()
        with pytest.raises(Unavailable, match="closed"):
            await store.compile(DIGEST)

    async def test_compile_when_several_differ_then_one_at_a_time(self, root: Path) -> None:
        """Compilations wait for each other, so that a node keeps room for its applications."""
        program = """
lock = here / "running"
lock.mkdir()
while not (here / "go").exists(): time.sleep(0.005)
lock.rmdir()
compiled()
"""
        async with opened(root, program, limits=LIMITS) as store:
            digests = [await upload(store, WASM + bytes([n])) for n in range(3)]
            compiling = [asyncio.create_task(store.compile(digest)) for digest in digests]
            while not (root / "running").exists():
                await asyncio.sleep(0.005)
            assert len(processes_of(root / "artifacts")) == 1
            (root / "go").touch()
            await asyncio.gather(*compiling)
            assert (root / "compiled").read_text() == "xxx"


FAILURES: list[tuple[str, type[PlexSpacesError], str, str]] = [
    (
        "say(ok=False, code='invalid_argument', message='no known entry', hint='export one')",
        InvalidArgument,
        "no known entry",
        "export one",
    ),
    ("time.sleep(60)", ResourceExhausted, r"more than [\d.]+ s", "compile_timeout_s"),
    (
        "if os.fork(): time.sleep(60)\nelse:\n  while True: os.getpid()",
        ResourceExhausted,
        r"more than [\d.]+ s",
        "compile_timeout_s",
    ),
    (
        "try: bytearray(10**9)\n"
        "except MemoryError: sys.exit('memory allocation of 1000000000 bytes failed')",
        ResourceExhausted,
        "more than 512 MiB",
        "compile_memory_mib",
    ),
    (
        "say(ok=False, code='invalid_argument', message='mmap: Cannot allocate memory', hint=None)",
        ResourceExhausted,
        "more than 512 MiB",
        "compile_memory_mib",
    ),
    (
        "print('memory allocation of 9 bytes failed', file=sys.stderr, flush=True); os.abort()",
        ResourceExhausted,
        "more than 512 MiB",
        "compile_memory_mib",
    ),
    ("os.kill(os.getpid(), 9)", ResourceExhausted, "killed", "memory"),
    ("os.kill(os.getpid(), 24)", ResourceExhausted, r"more than [\d.]+ s", "compile_timeout_s"),
    (
        "print('bug in codegen', file=sys.stderr, flush=True); os.abort()",
        InvalidArgument,
        "SIGABRT.: bug in codegen",
        "doctor",
    ),
    ("raise ValueError('odd')", InvalidArgument, "status 1.: ValueError: odd", "doctor"),
    ("compiled(); sys.exit(3)", InvalidArgument, "exit status 3.: no output", "doctor"),
    ("print('hello')", Internal, "cannot be read", "doctor"),
    ("say(ok=True)", Internal, "cannot be read.*kind", "doctor"),
    ("target.write_bytes(b''); print('x' * 2_000_000)", InvalidArgument, "take more", "wit"),
    ("say(ok=True, kind='command')", Internal, "wrote nothing", ""),
    (
        "open('/dev/full', 'wb').write(b'x' * 10_000_000)",
        ResourceExhausted,
        "no space left in .*cache",
        "df -h",
    ),
]


class TestCheck:
    INSPECTS = """
with open(here / "actions", "a") as file:
    file.write(action[0])
if action == "inspect":
    say(ok=True, kind="actor", languages=["Rust"], memory_bytes=5)
else:
    compiled(memory_bytes=5)
"""

    async def test_compile_when_it_is_checked_then_it_is_inspected_before(self, root: Path) -> None:
        """What is not wanted is not compiled; it stays, because another may want it."""

        def check(report: ArtifactReport) -> None:
            seen.append(report)
            if len(seen) == 1:
                raise InvalidArgument("not wanted")

        seen: list[ArtifactReport] = []
        async with opened(root, self.INSPECTS, limits=LIMITS) as store:
            await upload(store)
            with pytest.raises(InvalidArgument, match="not wanted"):
                await store.compile(DIGEST, check=check)
            assert await store.has(DIGEST)
            for _ in range(2):
                await store.compile(DIGEST, check=check)
        assert (root / "actions").read_text() == "iic"
        assert [(one.language, one.memory_bytes) for one in seen] == [(Language.RUST, 5)] * 3

    async def test_compile_when_inspecting_refuses_then_nothing_is_compiled(
        self, root: Path
    ) -> None:
        """The refusal is the program's own, and the artifact goes."""
        program = "say(ok=False, code='invalid_argument', message=f'no: {action}')"
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            with pytest.raises(InvalidArgument, match="no: inspect"):
                await store.compile(DIGEST, check=lambda _report: None)
            assert not await store.has(DIGEST)


class TestCompileFails:
    @pytest.mark.parametrize(
        ("program", "error", "message", "hint"), FAILURES, ids=[case[0][:30] for case in FAILURES]
    )
    async def test_compile_when_the_compiler_fails_then_a_clear_error_and_nothing_left(
        self, root: Path, program: str, error: type[PlexSpacesError], message: str, hint: str
    ) -> None:
        """Each way a compiler can end becomes an error that says what helps; no trace stays."""
        timeout_s = 0.5 if "time.sleep" in program else 30
        async with opened(root, program, limits=CompileLimits(timeout_s, 512)) as store:
            await upload(store)
            with pytest.raises(error, match=message) as caught:
                await store.compile(DIGEST)
            assert hint in (caught.value.hint or "")
            await all_gone(root)
            assert list((root / "cache").iterdir()) == []

    async def test_compile_when_it_failed_then_the_next_call_tries_again(self, root: Path) -> None:
        """A failure is not remembered, and several waiters all learn of it."""
        program = "compiled() if (here / 'mended').exists() else sys.exit(1)"
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            results = await asyncio.gather(
                *(store.compile(DIGEST) for _ in range(3)), return_exceptions=True
            )
            assert [type(result) for result in results] == [InvalidArgument] * 3
            (root / "mended").touch()
            # What broke the compiler is not kept.
            await upload(store)
            assert not (await store.compile(DIGEST)).cached

    async def test_compile_when_bounded_then_the_program_is_told_its_limits(
        self, root: Path
    ) -> None:
        """It bounds itself by what it is told, in its own session, with a clean environment."""
        program = """
state = {"options": options, "leader": os.getsid(0) == os.getpid(), "env": sorted(os.environ)}
(here / "state").write_text(json.dumps(state))
compiled()
"""
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            await store.compile(DIGEST)
        state = json.loads((root / "state").read_text())
        assert state["options"] == {
            "--memory-bytes": 512 * 2**20,
            "--cpu-s": 10 * (os.cpu_count() or 1),
            "--file-bytes": 64 * 2**20,
            "--files": 64,
            "--parent": os.getpid(),
        }
        assert state["leader"]
        assert set(state["env"]) <= {"LANG", "LC_CTYPE", "PATH"}

    async def test_compile_when_the_compiler_is_missing_then_says_so(self, root: Path) -> None:
        """What is no program is named, and nothing is left."""
        async with ArtifactStore(
            root, limit_bytes=100_000, engine="e1", compiler=(str(root / "none"),)
        ) as store:
            await upload(store)
            with pytest.raises(Unsupported, match="none is missing") as caught:
                await store.compile(DIGEST)
        assert caught.value.hint == "plexspaces doctor"
        assert leftovers(root) == []

    async def test_compile_when_the_node_is_killed_then_its_compiler_dies_too(
        self, root: Path
    ) -> None:
        """A node killed without warning leaves no compiler behind, and starts clean again."""
        script = f"""
import asyncio, sys
from pathlib import Path
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.artifacts.compiler import CompileLimits

async def main():
    program = "(here / 'begun').touch()\\ntime.sleep(60)"
    command = (*{fake_compiler("")[:-1]!r}, {BEGIN!r} + program)
    root = Path({str(root)!r})
    async with ArtifactStore(root, limit_bytes=10**6, engine="e1", compiler=command) as store:
        async with store.receive({DIGEST!r}, {len(WASM)}) as incoming:
            await incoming.write(Path(sys.argv[1]).read_bytes())
        await store.compile({DIGEST!r})

asyncio.run(main())
"""
        source = root.parent / "source.wasm"
        source.write_bytes(WASM)
        node = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(source))
        async with asyncio.timeout(patient(20)):
            while not (root / "begun").exists():
                await asyncio.sleep(0.01)
        assert len(processes_of(root / "artifacts")) == 1
        node.kill()
        await node.wait()
        await all_gone(root)
        async with opened(root, limits=LIMITS) as store:
            assert await store.has(DIGEST)
            assert not (await store.compile(DIGEST)).cached


class TestLanguage:
    @pytest.mark.parametrize(
        ("languages", "processed_by", "expected"),
        [
            (["Rust"], ["rustc"], Language.RUST),
            (["Go"], ["Go cmd/compile"], Language.GO),
            (["Rust", "Go"], [], Language.GO),
            (["C11", "Rust", "Python"], [], Language.PYTHON),
            (["Rust", "JavaScript"], ["component-init-transform"], Language.TYPESCRIPT),
            (["TypeScript"], [], Language.TYPESCRIPT),
            (["Rust"], ["rustc", "component-init-transform"], Language.UNKNOWN),
            (["Zig"], [], Language.UNKNOWN),
            ([], [], Language.UNKNOWN),
        ],
    )
    async def test_report_when_several_languages_took_part_then_the_users_own_is_told(
        self, root: Path, languages: list[str], processed_by: list[str], expected: Language
    ) -> None:
        """Interpreters and adapters are written in C and Rust; they do not hide the user's."""
        program = f"""
target.touch()
say(ok=True, kind="command", languages={languages!r}, processed_by={processed_by!r})
"""
        async with opened(root, program, limits=LIMITS) as store:
            await upload(store)
            assert (await store.compile(DIGEST)).report.language is expected

    @pytest.mark.parametrize(
        ("found", "said", "expected"),
        [
            (Language.RUST, None, Language.RUST),
            (Language.RUST, Language.UNKNOWN, Language.RUST),
            (Language.RUST, Language.RUST, Language.RUST),
            (Language.UNKNOWN, Language.GO, Language.GO),
            (Language.UNKNOWN, None, Language.UNKNOWN),
        ],
    )
    def test_check_language_when_nothing_contradicts_then_the_known_one(
        self, found: Language, said: Language | None, expected: Language
    ) -> None:
        """What is known of either side is the answer."""
        assert check_language(report_of(found), said) is expected

    def test_check_language_when_contradicted_then_names_both(self) -> None:
        """A user who is wrong learns what the file is."""
        with pytest.raises(InvalidArgument, match="in rust, not in go") as caught:
            check_language(report_of(Language.RUST), Language.GO)
        assert "--language rust" in (caught.value.hint or "")


def report_of(language: Language) -> ArtifactReport:
    return ArtifactReport(ArtifactKind.ACTOR, language, (), ())


class TestTenants:
    """Artifacts of several tenants in one store."""

    async def test_artifact_when_two_tenants_send_it_then_each_has_its_own(
        self, store: ArtifactStore, root: Path
    ) -> None:
        """Neither is told of the other's, before it is compiled or after."""
        await upload(store)
        assert await store.has(DIGEST)
        assert not await store.has(f"shop/{DIGEST}")
        with pytest.raises(NotFound, match=f"artifact {DIGEST} is missing"):
            await store.compile(f"shop/{DIGEST}")
        ours = await store.compile(DIGEST)
        async with store.receive(f"shop/{DIGEST}", len(WASM)) as incoming:
            await incoming.write(WASM)
        theirs = await store.compile(f"shop/{DIGEST}")
        assert (ours.cached, theirs.cached) == (False, False)
        assert ours.path != theirs.path
        assert (await store.compile(f"shop/{DIGEST}")).cached
        assert not await store.has(f"rival/{DIGEST}")
        files = {path.relative_to(root).parent for path in root.rglob("*.*") if path.is_file()}
        assert files == {
            Path(one) for one in ("artifacts", "artifacts/shop", "cache", "cache/shop")
        }

    async def test_artifact_when_a_tenant_does_not_name_it_then_it_is_in_its_own_place(
        self, store: ArtifactStore
    ) -> None:
        """As for who names it."""
        async with store.receive_unnamed("shop", len(WASM)) as incoming:
            await incoming.write(WASM)
        assert await store.has(f"shop/{DIGEST}")
        assert not await store.has(DIGEST)

    @pytest.mark.parametrize("tenant", ["..", ".", "", "a/b", "Shop", "~", "a" * 64])
    async def test_artifact_when_the_tenant_is_none_then_refused(
        self, store: ArtifactStore, root: Path, tenant: str
    ) -> None:
        """Nothing leaves the directory, and nothing is made in it."""
        for ask in (store.has, store.compile, store.size_bytes):
            with pytest.raises(InvalidArgument):
                await ask(f"{tenant}/{DIGEST}")
        with pytest.raises(InvalidArgument):
            async with store.receive_unnamed(tenant, len(WASM)):
                raise AssertionError
        assert list((root / "artifacts").iterdir()) == []

    async def test_store_when_opened_again_then_everybodys_are_there_and_one_limit_for_all(
        self, root: Path
    ) -> None:
        """The least recently used goes first, whose ever it is; empty directories go too."""
        names = (DIGEST, f"shop/{DIGEST}", f"rival/{DIGEST}")
        async with opened(root, limits=LIMITS) as store:
            for name in names:
                async with store.receive(name, len(WASM)) as incoming:
                    await incoming.write(WASM)
                await store.compile(name)
            before = store.total_bytes
        async with opened(root, limits=LIMITS) as store:
            assert store.total_bytes == before
            for name in names:
                assert (await store.compile(name)).cached
        (root / "artifacts" / "shop" / f"{DIGEST}.wasm").unlink()
        async with opened(root, engine="e2", limits=LIMITS) as store:
            assert not await store.has(f"shop/{DIGEST}")
            assert await store.has(f"rival/{DIGEST}")
            assert not any((root / "cache").rglob("*.cwasm"))
        async with opened(root, engine="e2", limits=LIMITS):
            assert not (root / "artifacts" / "shop").exists()
            assert not (root / "cache" / "rival").exists()
