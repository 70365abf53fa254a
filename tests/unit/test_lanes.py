"""Compilers: how many there are, and that nobody waits for a stranger's large artifact."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_compiler import fake_compiler
from support.patience import patient

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.artifacts import compile_queue as lanes
from plexspaces_node.node.artifacts.compile_queue import compilers
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.store import ArtifactStore, Compiled

PROGRAM = """
name = source.read_bytes()[4:].rstrip(b".").decode()
with open(here / "begun", "a") as file:
    file.write(name + " ")
if "waits" in name:
    while not (here / "go").exists():
        time.sleep(0.005)
if "hungry" in name and options["--memory-bytes"] <= 1024 * 2**20:
    sys.exit("memory allocation of 2000000000 bytes failed")
target.write_bytes(b"native")
say(ok=True, kind="actor", languages=[], imports=[], exports=[], engine="x")
"""
"""Waits for a file, or wants more than a short artifact is given, where its name says so."""


@asynccontextmanager
async def opened(
    root: Path, at_once: int, *, timeout_s: float = 60.0, memory_mib: int = 4096
) -> AsyncIterator[ArtifactStore]:
    limits = CompileLimits(timeout_s, memory_mib, at_once)
    command = fake_compiler(PROGRAM)
    async with (
        asyncio.timeout(patient(60)),
        ArtifactStore(
            root, limit_bytes=2 * lanes.SHORT_BYTES, engine="e1", limits=limits, compiler=command
        ) as store,
    ):
        yield store


async def compiled(store: ArtifactStore, name: str, *, long: bool, owner: str) -> Compiled:
    """Have an artifact of this name, short or long, compiled for somebody."""
    data = b"\0asm" + name.encode().ljust(lanes.SHORT_BYTES if long else 10, b".")
    digest = hashlib.sha256(data).hexdigest()
    async with store.receive(digest, len(data)) as incoming:
        await incoming.write(data)
    return await store.compile(digest, owner=owner)


def begun(root: Path) -> list[str]:
    """What the compiler was started with, in order."""
    file = root / "begun"
    return file.read_text().split() if file.exists() else []


async def until_begun(root: Path, *names: str) -> None:
    while not set(names) <= set(begun(root)):
        await asyncio.sleep(0.005)


async def test_short_artifact_when_long_ones_are_compiled_then_it_does_not_wait(
    tmp_path: Path,
) -> None:
    """A small deploy takes as long as it takes alone, whatever a stranger compiles."""
    async with opened(tmp_path, 2) as store:
        waiting = [asyncio.create_task(compiled(store, "waits1", long=True, owner="a"))]
        await until_begun(tmp_path, "waits1")
        waiting.append(asyncio.create_task(compiled(store, "waits2", long=True, owner="a")))
        await compiled(store, "small", long=False, owner="b")
        assert begun(tmp_path) == ["waits1", "small"]
        (tmp_path / "go").touch()
        await asyncio.gather(*waiting)


async def test_short_artifact_when_it_wants_more_then_it_goes_on_with_the_long_ones(
    tmp_path: Path,
) -> None:
    """What short ones are given is no limit of what can be deployed."""
    async with opened(tmp_path, 2) as store:
        await compiled(store, "hungry", long=False, owner="a")
    assert begun(tmp_path) == ["hungry", "hungry"]


async def test_short_artifact_when_long_ones_get_no_more_then_it_is_tried_once(
    tmp_path: Path,
) -> None:
    """Where it would fail again, the error comes at once."""
    async with opened(tmp_path, 2, timeout_s=lanes.SHORT_TIMEOUT_S, memory_mib=512) as store:
        with pytest.raises(ResourceExhausted, match="more than 512 MiB"):
            await compiled(store, "hungry", long=False, owner="a")
    assert begun(tmp_path) == ["hungry"]


async def test_long_artifact_when_one_client_sends_many_then_a_strangers_is_not_behind_them(
    tmp_path: Path,
) -> None:
    """One client never has all compilers, and those that wait are served in turn."""
    async with opened(tmp_path, 3) as store:
        mine = [asyncio.create_task(compiled(store, "waits0", long=True, owner="a"))]
        await until_begun(tmp_path, "waits0")
        mine += [
            asyncio.create_task(compiled(store, f"waits{n}", long=True, owner="a")) for n in (1, 2)
        ]
        await compiled(store, "strange", long=True, owner="b")
        assert begun(tmp_path) == ["waits0", "strange"]
        (tmp_path / "go").touch()
        await asyncio.gather(*mine)


@pytest.mark.parametrize(
    ("processors", "host_mib", "compile_mib", "count"),
    [(1, 2_000, 4096, 2), (2, 24_000, 4096, 3), (16, 64_000, 4096, 8), (16, 16_000, 4096, 2)],
)
def test_compilers_when_counted_then_processors_and_memory_bound_them(
    processors: int, host_mib: int, compile_mib: int, count: int
) -> None:
    """There are always two, so that one is for short artifacts."""
    assert compilers(processors, host_mib, compile_mib) == count
