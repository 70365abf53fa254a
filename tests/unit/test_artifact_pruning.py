"""The artifact store within its limit: what goes, what stays, what a crash in between leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_compiler import fake_compiler
from support.patience import patient
from support.small_disk import run_on_small_disk

from plexspaces_node.errors import InvalidArgument, NotFound, ResourceExhausted
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.store import ArtifactStore

COMPILER = """
data = source.read_bytes()
if b"refused" in data:
    say(ok=False, code="invalid_argument", message="no"); sys.exit()
if b"slow" in data:
    (here / "begun").touch()
    while not (here / "go").exists(): time.sleep(0.005)
target.write_bytes(b"n" * 5000)
say(ok=True, kind="actor")
"""
COMMAND = fake_compiler(COMPILER)

SIZE = 4096 + 8192 + 4096
"""Room of an artifact of one block, its native code of two, and the report on it."""


def wasm(name: str) -> bytes:
    """Return an artifact of its own for each name."""
    return b"\0asm" + name.encode()


def digest_of(name: str) -> str:
    return hashlib.sha256(wasm(name)).hexdigest()


async def upload(store: ArtifactStore, name: str) -> str:
    digest = digest_of(name)
    async with store.receive(digest, len(wasm(name))) as incoming:
        await incoming.write(wasm(name))
    return digest


async def bring(store: ArtifactStore, *names: str) -> None:
    """Upload and compile artifacts, in this order."""
    for name in names:
        await store.compile(await upload(store, name))


def names_in(root: Path) -> set[str]:
    """Return the artifacts on disk; fail when one is not whole or anything else is there."""
    known = {digest_of(name): name for name in ("a", "b", "c", "d", "slow", "refused")}
    found = {known[path.stem] for path in (root / "artifacts").iterdir()}
    compiled = sorted(path.suffix for path in (root / "cache").iterdir())
    assert compiled == [".cwasm"] * len(found) + [".json"] * len(found)
    return found


async def settled(store: ArtifactStore) -> None:
    """Wait until the pruner has seen everything and waits itself."""
    async with asyncio.timeout(patient(10)):
        while (look := store._pruner._due).is_set() or all(
            one.done() for one in vars(look)["_waiters"]
        ):
            await asyncio.sleep(0.002)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@asynccontextmanager
async def opened(
    root: Path, limit_bytes: int | None = None, *, held: str = "", promise_s: float = 0.0
) -> AsyncIterator[ArtifactStore]:
    """Open a store; with a limit it prunes, as a node whose applications hold these."""
    async with ArtifactStore(
        root,
        limit_bytes=1_000_000,
        engine="e1",
        limits=CompileLimits(30, 512),
        compiler=COMMAND,
        promise_s=promise_s,
    ) as store:
        if limit_bytes is not None:
            for name in held:
                store.hold(digest_of(name))
            store.start_pruning(limit_bytes)
        yield store


class TestLimit:
    async def test_store_when_over_the_limit_then_the_longest_unused_goes_whole(
        self, root: Path
    ) -> None:
        """An artifact goes with what was compiled from it, and no more of them than necessary."""
        async with opened(root, 2 * SIZE) as store:
            await bring(store, "a", "b")
            await settled(store)
            assert names_in(root) == {"a", "b"}
            await bring(store, "c")
            await settled(store)
            assert names_in(root) == {"b", "c"}
            assert not await store.has(digest_of("a"))
            with pytest.raises(NotFound):
                await store.compile(digest_of("a"))

    async def test_store_when_an_artifact_was_used_again_then_another_goes(
        self, root: Path
    ) -> None:
        """Finding one, compiling it and letting go of it are uses; being old is none."""
        async with opened(root, 3 * SIZE) as store:
            await bring(store, "a", "b", "c")
            await store.has(digest_of("a"))
            await store.compile(digest_of("b"))
            await bring(store, "d")
            await settled(store)
            assert names_in(root) == {"a", "b", "d"}

    async def test_store_when_applications_hold_artifacts_then_those_stay_and_do_not_count(
        self, root: Path
    ) -> None:
        """With a limit of nothing exactly that stays which somebody holds."""
        async with opened(root) as store:
            await bring(store, "a", "b", "c")
        async with opened(root, 0, held="ac") as store:
            await settled(store)
            assert names_in(root) == {"a", "c"}
            store.release(digest_of("a"))
            await settled(store)
            assert names_in(root) == {"c"}
            assert store.total_bytes == SIZE

    async def test_start_when_used_in_another_order_than_sent_then_that_order_counts(
        self, root: Path
    ) -> None:
        """A start knows what was used last before the node ended."""
        async with opened(root) as store:
            await bring(store, "a", "b", "c")
            await store.has(digest_of("a"))
        async with opened(root, SIZE) as store:
            assert store.total_bytes == 3 * SIZE
            await settled(store)
            assert names_in(root) == {"a"}
            assert store.total_bytes == SIZE

    async def test_total_when_compared_with_the_disk_then_it_is_what_lies_there(
        self, root: Path
    ) -> None:
        """What is counted is what files take up, after a start too."""

        def on_disk() -> int:
            files = [path for name in ("artifacts", "cache") for path in (root / name).iterdir()]
            return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)

        async with opened(root) as store:
            await bring(store, "a", "b", "a")
            await upload(store, "c")
            assert store.total_bytes == on_disk() == 2 * SIZE + 4096
        async with opened(root) as store:
            assert store.total_bytes == on_disk()

    async def test_start_when_only_native_code_is_left_then_it_is_used_counted_and_pruned(
        self, root: Path
    ) -> None:
        """Who tidied up by hand loses no application, and no disk."""
        async with opened(root) as store:
            await bring(store, "a", "b")
        for path in (root / "artifacts").iterdir():
            path.unlink()
        async with opened(root, 0, held="a") as store:
            await settled(store)
            assert (await store.compile(digest_of("a"))).cached
            assert len(list((root / "cache").iterdir())) == 2

    async def test_store_when_it_may_not_prune_yet_then_nothing_goes(self, root: Path) -> None:
        """Before a node has said what its applications hold, everything may be needed."""
        async with opened(root) as store:
            await bring(store, "a", "b", "c")
            assert names_in(root) == {"a", "b", "c"}
            store.start_pruning(0)
            await settled(store)
            assert names_in(root) == set()

    async def test_has_when_the_client_was_told_then_it_stays_until_it_can_be_deployed(
        self, root: Path
    ) -> None:
        """Between a client's question and its deploy an artifact does not vanish."""
        async with opened(root) as store:
            await bring(store, "a", "b")
        async with opened(root, promise_s=1000.0) as store:
            assert await store.has(digest_of("a"))
            store.start_pruning(0)
            await settled(store)
            assert names_in(root) == {"a"}

    async def test_promise_when_its_time_is_over_then_the_artifact_goes_unasked(
        self, root: Path
    ) -> None:
        """A client that asked and never deployed keeps nothing for ever."""
        async with opened(root, 0, promise_s=0.05) as store:
            await bring(store, "a")
            await gone(root, "a")
            await settled(store)
            assert names_in(root) == set()


class Unlinks:
    """Every removal of a file, as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[threading.Thread] = set()
        self.before: Callable[[Path], None] = lambda path: None
        unlink = Path.unlink

        def watched(path: Path, missing_ok: bool = False) -> None:
            if path.suffix in (".wasm", ".cwasm", ".json") and not path.name.startswith("."):
                self.threads.add(threading.current_thread())
                self.before(path)
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", watched)


@pytest.fixture
def unlinks(monkeypatch: pytest.MonkeyPatch) -> Unlinks:
    return Unlinks(monkeypatch)


class TestAtTheSameTime:
    async def test_upload_and_deploy_when_the_very_artifact_is_being_removed_then_it_is_there(
        self, root: Path, unlinks: Unlinks
    ) -> None:
        """Who comes while it goes waits until it is gone, and brings it back whole."""
        going, go_on = threading.Event(), threading.Event()

        def wait(path: Path) -> None:
            if path.suffix == ".wasm":
                going.set()
                assert go_on.wait(10)

        unlinks.before = wait
        async with opened(root, 0) as store:
            holding = store.holding(digest_of("a"))
            await holding.__aenter__()
            await bring(store, "a")
            await holding.__aexit__(None, None, None)
            assert await asyncio.to_thread(going.wait, 10)
            assert not await store.has(digest_of("a")), "on its way out, it is not promised"

            async def deploy() -> None:
                async with store.receive(digest_of("a"), len(wasm("a"))) as incoming:
                    await incoming.write(wasm("a"))
                    store.hold(digest_of("a"))
                await store.compile(digest_of("a"))

            deploying = asyncio.create_task(deploy())
            compiling = asyncio.create_task(store.compile(digest_of("a")))
            for _ in range(20):  # until both wait for something that is not there
                await asyncio.sleep(0)
            assert not deploying.done()
            assert not compiling.done()
            go_on.set()
            await deploying
            await asyncio.wait([compiling])
            await settled(store)
            assert names_in(root) == {"a"}
            assert store.total_bytes == SIZE

    async def test_compile_when_over_the_limit_meanwhile_then_its_artifact_stays(
        self, root: Path
    ) -> None:
        """What is being compiled is needed, however long that takes."""
        async with opened(root, 0) as store:
            deploying = store.holding(digest_of("slow"))
            await deploying.__aenter__()
            await upload(store, "slow")

            async def compile_and_hold() -> Path:
                compiled = await store.compile(digest_of("slow"))
                store.hold(digest_of("slow"))
                return compiled.path

            compiling = asyncio.create_task(compile_and_hold())
            async with asyncio.timeout(patient(10)):
                while not (root / "begun").exists():
                    await asyncio.sleep(0.005)
            await deploying.__aexit__(None, None, None)
            await bring_aside(store, root)
            assert await store.has(digest_of("slow"))
            (root / "go").touch()
            code = await compiling
            await settled(store)
            assert code.read_bytes() == b"n" * 5000
            assert names_in(root) == {"slow"}

    async def test_upload_when_it_is_sent_again_over_the_limit_then_nothing_is_mixed_up(
        self, root: Path
    ) -> None:
        """Uploads and removals of one artifact, many times, end in all of it or nothing."""
        async with opened(root, 0) as store:
            for steps in range(30):
                sending = asyncio.create_task(upload(store, "a"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if steps % 3 == 0:
                    sending.cancel()
                await asyncio.wait([sending])
            await settled(store)
            assert list((root / "artifacts").iterdir()) == []
            assert store.total_bytes == 0

    async def test_refused_artifact_when_two_deploy_it_then_the_last_one_removes_it(
        self, root: Path
    ) -> None:
        """Nobody's deploy fails for another reason than its own, and nothing is left."""

        async def deploy(store: ArtifactStore) -> None:
            async with store.holding(digest_of("refused")):
                await store.compile(digest_of("refused"))

        async with opened(root, 10 * SIZE) as store:
            await upload(store, "refused")
            deploys = [asyncio.create_task(deploy(store)) for _ in range(3)]
            done = await asyncio.gather(*deploys, return_exceptions=True)
            assert [type(one) for one in done] == [InvalidArgument] * 3
            assert names_in(root) == set()
            assert store.total_bytes == 0

    async def test_pruning_when_it_removes_then_not_on_the_event_loop(
        self, root: Path, unlinks: Unlinks
    ) -> None:
        """To free the blocks of big files takes time, which messages do not wait for."""
        async with opened(root, 0) as store:
            await bring(store, "a")
            await settled(store)
        assert names_in(root) == set()
        assert unlinks.threads
        assert threading.main_thread() not in unlinks.threads


async def bring_aside(store: ArtifactStore, root: Path) -> None:
    """Have the pruner remove something else, to see that it has looked at everything."""
    await upload(store, "b")
    await gone(root, "b")


async def gone(root: Path, name: str) -> None:
    """Wait until an artifact is not on the disk any more."""
    async with asyncio.timeout(patient(10)):
        while (root / "artifacts" / f"{digest_of(name)}.wasm").exists():
            await asyncio.sleep(0.005)


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from plexspaces_node.node.artifacts.store import ArtifactStore

root, last = Path(sys.argv[1]), int(sys.argv[2])
unlink, done = Path.unlink, 0

def dying(path, missing_ok=False):
    global done
    if done == last:
        os._exit(9)
    done += 1
    unlink(path, missing_ok)

async def main():
    async with ArtifactStore(root, limit_bytes=10**6, engine="e1") as store:
        Path.unlink = dying
        store.start_pruning(0)
        await asyncio.sleep(20)

asyncio.run(main())
"""


class TestFaults:
    @pytest.mark.parametrize("last", range(6))
    async def test_kill_between_two_removals_then_the_store_opens_with_whole_artifacts(
        self, root: Path, last: int
    ) -> None:
        """A node killed after any number of files were removed finds whole artifacts, or none."""
        async with opened(root) as store:
            await bring(store, "a", "b")
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, str(root), str(last)
        )
        assert await asyncio.wait_for(killed.wait(), 20) == 9
        removed = 6 - sum(len(list((root / name).iterdir())) for name in ("artifacts", "cache"))
        assert removed == last
        async with opened(root) as store:
            for name in "ab":
                if await store.has(digest_of(name)):
                    await store.compile(digest_of(name))
            assert names_in(root) == ({"a", "b"} if last < 3 else {"b"})
            assert store.total_bytes == SIZE * len(names_in(root))
        async with opened(root, 0) as store:
            await settled(store)
            assert names_in(root) == set()

    async def test_start_when_uploads_and_compilations_were_killed_then_their_rests_are_gone(
        self, root: Path
    ) -> None:
        """Rests of every kind that a kill leaves are removed, and not counted."""
        async with opened(root) as store:
            await bring(store, "a")
        (root / "artifacts" / ".tmp-upload").write_bytes(b"\0asm")
        for rest in (".tmp-0.cwasm", ".tmp-0.json", ".tmp-answer", f"{'1' * 64}.cwasm"):
            (root / "cache" / rest).write_bytes(b"half")
        async with opened(root) as store:
            assert names_in(root) == {"a"}
            assert store.total_bytes == SIZE

    async def test_pruning_when_a_file_cannot_be_removed_then_said_and_others_go(
        self, root: Path, unlinks: Unlinks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One bad file keeps neither the node from working nor others from being removed."""

        def fail(path: Path) -> None:
            if path.stem == digest_of("a"):
                raise PermissionError(1, "Operation not permitted")

        unlinks.before = fail
        async with opened(root, SIZE) as store:
            await bring(store, "a", "b", "c")
            await settled(store)
            await bring(store, "c")
            await settled(store)
            left = {path.stem for path in (root / "artifacts").iterdir()}
            assert digest_of("a") in left
            assert digest_of("b") not in left
            assert f"artifact {digest_of('a')} cannot be removed" in caplog.text
            assert (await store.compile(digest_of("a"))).path.is_file()

    @pytest.mark.parametrize("full_at", [".cwasm", ".json", ""])
    async def test_compile_when_a_step_of_keeping_finds_no_room_then_nothing_of_it_is_left(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
    ) -> None:
        """Native code without its report would take room and be of no use."""
        fsync = os.fsync

        def full(file: int) -> None:
            if Path(os.readlink(f"/proc/self/fd/{file}")).suffix == full_at:
                raise OSError(28, "No space left on device")
            fsync(file)

        async with opened(root, 10 * SIZE) as store:
            await upload(store, "a")
            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(ResourceExhausted, match="no space left") as caught:
                await store.compile(digest_of("a"))
            assert caught.value.hint == f"df -h {root}/cache"
            assert list((root / "cache").iterdir()) == []
            assert store.total_bytes == 4096

    async def test_upload_when_the_disk_is_full_then_what_nobody_uses_makes_room(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Artifacts kept for later do not keep a node from taking the one wanted now."""
        async with opened(root, 10 * SIZE) as store:
            await bring(store, "a", "b")
            store.hold(digest_of("a"))
            with monkeypatch.context() as patched:

                def full(*_: object) -> None:
                    raise OSError(28, "No space left on device")

                patched.setattr(os, "fsync", full)
                with pytest.raises(ResourceExhausted):
                    await upload(store, "c")
            await settled(store)
            assert names_in(root) == {"a"}
            await bring(store, "c")
            assert names_in(root) == {"a", "c"}


_FULL = """
import asyncio, hashlib, json, sys
from pathlib import Path
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.artifacts.store import ArtifactStore

root = Path(sys.argv[1])
compiler = '''
import pathlib, sys
pathlib.Path(sys.argv[-1]).write_bytes(bytes(4_000_000))
print('{"ok": true, "kind": "actor"}')
'''

def left():
    return sorted(
        "." if path.name.startswith(".") else path.suffix
        for name in ("artifacts", "cache")
        for path in (root / name).iterdir()
    )

async def send(store, data):
    async with store.receive(hashlib.sha256(data).hexdigest(), len(data)) as incoming:
        await incoming.write(data)

async def tried(act):
    try:
        await act
        return ["done", left()]
    except PlexSpacesError as error:
        return [error.code, error.message, error.hint, left()]

async def main():
    command = (sys.executable, "-I", "-c", compiler)
    data = b"\\0asm" + bytes(1000)
    async with ArtifactStore(root, limit_bytes=10**8, engine="e1", compiler=command) as store:
        upload = await tried(send(store, b"\\0asm" + bytes(5_000_000)))
        await send(store, data)
        compile = await tried(store.compile(hashlib.sha256(data).hexdigest()))
        (root / "fill").write_bytes(bytes(4000))
        try:
            with (root / "fill").open("ab", buffering=0) as fill:
                while fill.write(bytes(4096)):
                    pass
        except OSError:
            pass
        again = await tried(store.compile(hashlib.sha256(data).hexdigest()))
        print(json.dumps({"upload": upload, "compile": compile, "again": again}))

asyncio.run(main())
"""


def test_disk_that_is_really_full_is_said_to_be_and_nothing_is_left(tmp_path: Path) -> None:
    """Uploads and compilations on a disk without room tell the place, and leave no part."""
    done = run_on_small_disk(_FULL, tmp_path, "2m")
    said = json.loads(done.stdout or done.stderr)
    place = f"no space left in {tmp_path}"
    code = "resource_exhausted"
    assert said == {
        "upload": [code, f"{place}/artifacts", f"df -h {tmp_path}/artifacts", []],
        "compile": [code, f"{place}/cache", f"df -h {tmp_path}/cache", [".wasm"]],
        "again": [code, f"{place}/cache", f"df -h {tmp_path}/cache", [".wasm"]],
    }
