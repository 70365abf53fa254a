"""The artifact store on a disk that changes what was written: nothing of it runs, all heals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_compiler import fake_compiler

from plexspaces_node.errors import NotFound
from plexspaces_node.node.artifacts import native_cache as native_module
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.artifacts.upload_slots import SHORT_PLACES
from plexspaces_node.node.disk import is_whole

COMPILER = """
target.write_bytes(b"native " + source.read_bytes())
with open(here / "compiled", "a") as file:
    file.write("x")
say(ok=True, kind="actor")
"""
WASM = b"\0asm" + bytes(range(256)) * 20
CODE = b"native " + WASM
DIGEST = hashlib.sha256(WASM).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[ArtifactStore]:
    async with ArtifactStore(
        root,
        limit_bytes=100_000,
        engine="e1",
        limits=CompileLimits(30, 512),
        compiler=fake_compiler(COMPILER),
    ) as store:
        yield store


async def upload(store: ArtifactStore) -> None:
    async with store.receive(DIGEST, len(WASM)) as incoming:
        await incoming.write(WASM)


async def compiled_once(root: Path) -> Path:
    """Run a store that takes the artifact in and compiles it; return where the code lies."""
    async with opened(root) as store:
        await upload(store)
        return (await store.compile(DIGEST)).path


def flip(path: Path, at: int) -> None:
    """Change one byte of a file, which stays as long as it was."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def compilations(root: Path) -> int:
    return (root / "compiled").stat().st_size


def room_on_disk(root: Path) -> int:
    files = [path for name in ("artifacts", "cache") for path in (root / name).iterdir()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


async def some_steps() -> None:
    """Let every task go on until it waits for something that is not there."""
    for _ in range(20):
        await asyncio.sleep(0)


class TestNativeCode:
    @pytest.mark.parametrize("at", [0, len(CODE) // 2, -1])
    async def test_compile_when_a_byte_changed_on_the_disk_then_compiled_anew(
        self, root: Path, at: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Code that is not what the compiler wrote is never handed out, and is made anew."""
        flip(await compiled_once(root), at)
        async with opened(root) as store:
            again = await store.compile(DIGEST)
            assert not again.cached
            assert again.path.read_bytes() == CODE
            assert f"native code {again.path} is corrupt" in caplog.text
            assert (await store.compile(DIGEST)).cached
            assert store.total_bytes == room_on_disk(root)

    async def test_compile_when_many_ask_for_damaged_code_then_one_compiles_it_anew(
        self, root: Path
    ) -> None:
        """What one caller finds damaged and removes is not removed again when it is whole."""
        flip(await compiled_once(root), 100)
        async with opened(root) as store:
            done = await asyncio.gather(*(store.compile(DIGEST) for _ in range(8)))
            assert {one.path.read_bytes() for one in done} == {CODE}
        assert compilations(root) == 2

    async def test_compile_when_cancelled_while_it_looks_then_it_ends_before_another_looks(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is found damaged is removed before anybody makes it anew, and never after."""
        path = await compiled_once(root)
        flip(path, 100)
        reading, go_on = threading.Event(), threading.Event()

        def read(path: Path, sha256: str) -> bool:
            reading.set()
            assert go_on.wait(20)
            return is_whole(path, sha256)

        monkeypatch.setattr(native_module, "is_whole", read)
        async with opened(root) as store:
            first = asyncio.create_task(store.compile(DIGEST))
            assert await asyncio.to_thread(reading.wait, 20)
            second = asyncio.create_task(store.compile(DIGEST))
            first.cancel()
            await some_steps()
            assert not first.done()
            go_on.set()
            assert (await second).path.read_bytes() == CODE
            assert first.cancelled()
        assert path.read_bytes() == CODE

    async def test_compile_when_asked_again_then_the_code_is_read_once_and_not_on_the_event_loop(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only the first deploy in a node's life pays, unless the file was changed meanwhile."""
        readers: list[threading.Thread] = []

        def read(path: Path, sha256: str) -> bool:
            readers.append(threading.current_thread())
            return is_whole(path, sha256)

        monkeypatch.setattr(native_module, "is_whole", read)
        path = await compiled_once(root)
        assert readers == [], "what was just written was read already"
        async with opened(root) as store:
            assert (await store.compile(DIGEST)).cached
            assert (await store.compile(DIGEST)).cached
            assert len(readers) == 1
            path.touch()
            assert (await store.compile(DIGEST)).cached
            assert len(readers) == 2
        assert threading.main_thread() not in readers

    async def test_compile_when_the_report_has_no_digest_then_compiled_anew(
        self, root: Path
    ) -> None:
        """Of code that an older node kept nobody knows whether it is whole."""
        note = (await compiled_once(root)).with_suffix(".json")
        note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": None}))
        async with opened(root) as store:
            assert not (await store.compile(DIGEST)).cached
        assert compilations(root) == 2

    def test_is_whole_when_the_disk_cannot_read_it_back_then_not(self) -> None:
        """A read that fails says of a file what a wrong byte says."""
        assert not is_whole(Path("/proc/self/mem"), DIGEST)


class TestArtifact:
    async def test_has_when_damaged_and_to_be_compiled_then_not_here_until_sent_again(
        self, root: Path
    ) -> None:
        """A client is told to send a file that is damaged here, also while somebody holds it."""
        code = await compiled_once(root)
        file = root / "artifacts" / f"{DIGEST}.wasm"
        flip(file, 1000)
        code.unlink()
        async with opened(root) as store:
            store.hold(DIGEST)
            assert not await store.has(DIGEST)
            assert not file.exists()
            assert store.total_bytes == room_on_disk(root) == 0
            await upload(store)
            assert await store.has(DIGEST)
            assert (await store.compile(DIGEST)).path.read_bytes() == CODE
            assert store.total_bytes == room_on_disk(root)

    @pytest.mark.parametrize("damage", ["flipped", "cut"])
    async def test_compile_when_the_artifact_is_damaged_then_not_found_and_never_compiled(
        self, root: Path, damage: str
    ) -> None:
        """The compiler sees what the user sent or nothing, and the error says what helps."""
        async with opened(root) as store:
            await upload(store)
            file = root / "artifacts" / f"{DIGEST}.wasm"
            if damage == "cut":
                file.write_bytes(WASM[:1000])
            else:
                flip(file, 1000)
            for _ in range(2):
                with pytest.raises(NotFound, match=f"artifact {DIGEST}") as caught:
                    await store.compile(DIGEST)
                assert "deploy the file again" in (caught.value.hint or "")
            assert not file.exists()
            assert not (root / "compiled").exists()
            assert store.total_bytes == 0
            assert not await store.has(DIGEST)

    async def test_has_when_damaged_but_compiled_then_here(self, root: Path) -> None:
        """Nobody reads an artifact whose native code is whole."""
        await compiled_once(root)
        flip(root / "artifacts" / f"{DIGEST}.wasm", 1000)
        async with opened(root) as store:
            assert await store.has(DIGEST)
            assert (await store.compile(DIGEST)).cached


class TestStart:
    def _directories(self, root: Path) -> list[Path]:
        names = [f"cache/.tmp-x/{DIGEST}", f"cache/{DIGEST}.cwasm", f"cache/{'1' * 64}.json"]
        found = [root / name for name in [*names, "artifacts/.tmp-y/z"]]
        for path in found:
            path.mkdir(parents=True)
        return found

    async def test_start_when_directories_lie_in_the_way_then_removed(self, root: Path) -> None:
        """Under names that are the node's own, whatever lies there goes."""
        await compiled_once(root)
        self._directories(root)
        async with opened(root) as store:
            assert {path.suffix for path in (root / "cache").iterdir()} == {".cwasm", ".json"}
            assert len(list((root / "artifacts").iterdir())) == 1
            assert (await store.compile(DIGEST)).cached

    async def test_start_when_something_cannot_be_removed_then_said_and_left(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What resists is named, and keeps no node from starting."""
        await compiled_once(root)
        directories = self._directories(root)

        def fail(path: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", fail)
            async with opened(root) as store:
                assert (await store.compile(DIGEST)).cached
        assert all(path.exists() for path in directories)
        assert f"{root}/cache/.tmp-x does not belong there and cannot be removed" in caplog.text


async def test_receive_when_as_many_as_allowed_are_under_way_then_the_next_waits(
    root: Path,
) -> None:
    """What lies half sent on the disk is bounded; one that waits may go away, or gets its turn."""
    first = [f"first-{number}" for number in range(SHORT_PLACES)]
    begun: list[str] = []

    async def send(name: str) -> None:
        async with store.receive(DIGEST, len(WASM), owner=name) as incoming:
            begun.append(name)
            await go_on.wait()
            await incoming.write(WASM)

    async with opened(root) as store:
        go_on = asyncio.Event()
        sent = {name: asyncio.create_task(send(name)) for name in (*first, "gone", "patient")}
        await some_steps()
        sent["gone"].cancel()
        await some_steps()
        assert begun == first
        go_on.set()
        await asyncio.wait(sent.values())
        assert begun == [*first, "patient"]
        assert [name for name, task in sent.items() if task.cancelled()] == ["gone"]
        assert [path.name for path in (root / "artifacts").iterdir()] == [f"{DIGEST}.wasm"]
