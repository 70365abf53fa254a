"""A machine's console, read from its bundle: within bounds, and from a plain file only."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.patience import patient

from plexspaces_node.errors import NotFound, ResourceExhausted, WrongState
from plexspaces_node.model import VmConfig
from plexspaces_node.node.access.identity import LOCAL, Identity, Kind, Scope
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.vms import MAX_FOLLOWERS, Vms
from plexspaces_node.node.machines.console import CHUNK_BYTES, read_console
from plexspaces_node.vm.bundle import Bundle


@pytest.fixture
def bundle(short_dir: Path) -> Bundle:
    """A bundle without a console log."""
    return Bundle.create(short_dir, "vm-1", VmConfig())


async def read(bundle: Bundle, *, tail: int = 0, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Read what is there now."""
    chunks = read_console(bundle, tail=tail, chunk_bytes=chunk_bytes)
    return b"".join([chunk async for chunk in chunks])


async def test_console_when_long_then_it_comes_whole_in_short_chunks(bundle: Bundle) -> None:
    """A full log never becomes one message."""
    written = os.urandom(4 * 1024 * 1024 - 1)
    bundle.console_log.write_bytes(written)
    chunks = [chunk async for chunk in read_console(bundle)]
    assert b"".join(chunks) == written
    assert max(map(len, chunks)) == CHUNK_BYTES


@given(
    st.lists(st.sampled_from([b"", b"a", b"line", b"x" * 9]), max_size=9),
    st.booleans(),
    st.tuples(st.integers(1, 10), st.integers(1, 8)),
)
def test_console_when_a_tail_is_wanted_then_it_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    ended: bool,
    sizes: tuple[int, int],
) -> None:
    """Wherever blocks are cut, and whether or not the last line is ended."""
    tail, block = sizes
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    bundle = Bundle(tmp_path_factory.mktemp("bundle"))
    bundle.console_log.write_bytes(data)
    found = asyncio.run(read(bundle, tail=tail, chunk_bytes=block))
    assert found == b"".join(data.splitlines(keepends=True)[-tail:])


@pytest.mark.virtual_time
async def test_console_when_followed_then_it_ends_with_the_machine(bundle: Bundle) -> None:
    """What comes is seen as it comes, the last words too, and then the reader is let go."""
    bundle.console_log.write_bytes(b"one\ntwo\n")
    async with (
        asyncio.timeout(patient(10)),
        aclosing(read_console(bundle, tail=1, follow=True)) as chunks,
    ):
        assert await anext(chunks) == b"two\n"
        with bundle.console_log.open("ab") as log:
            log.write(b"three\n")
            log.flush()
            assert await anext(chunks) == b"three\n"
            log.write(b"panic\n")
        bundle.remove()
        assert [chunk async for chunk in chunks] == [b"panic\n"]


async def test_console_when_it_grows_while_read_then_the_reading_ends(bundle: Bundle) -> None:
    """Without following, a guest that floods its console does not keep its reader."""
    bundle.console_log.write_bytes(b"x" * CHUNK_BYTES * 2)
    came = 0
    async for chunk in read_console(bundle):
        came += len(chunk)
        with bundle.console_log.open("ab") as log:
            log.write(b"y" * CHUNK_BYTES)
    assert came == CHUNK_BYTES * 2


def _link(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_text("secret")
    path.symlink_to(secret)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("plant", [_link, _socket, os.mkfifo, os.mkdir])
async def test_console_when_it_is_no_plain_file_then_it_is_refused_at_once(
    bundle: Bundle, plant: Callable[[Path], None]
) -> None:
    """Whoever owns the directory leads the node neither to another file nor into waiting."""
    plant(bundle.console_log)
    before = len(os.listdir("/proc/self/fd"))
    async with asyncio.timeout(patient(5)):
        with pytest.raises(WrongState, match="not a regular file") as caught:
            await read(bundle)
    assert caught.value.hint is not None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_console_when_its_directory_is_a_link_then_it_is_refused(
    bundle: Bundle, short_dir: Path
) -> None:
    """A bundle is a directory, not a way to another."""
    bundle.console_log.write_text("secret")
    (short_dir / "vm-2").symlink_to(bundle.path)
    with pytest.raises(WrongState):
        await read(Bundle(short_dir / "vm-2"))


async def test_console_when_there_is_none_then_not_found(bundle: Bundle) -> None:
    """A machine without a console is told from one that said nothing."""
    with pytest.raises(NotFound, match="vm-1 has no console log"):
        await read(bundle)
    bundle.console_log.touch()
    assert await read(bundle) == b""


async def test_consoles_when_one_tenant_follows_many_then_others_can_too(short_dir: Path) -> None:
    """Half of the places are left for others, and who sees all may have each."""
    for number, name in enumerate(("shop/cart", "rival/till")):
        bundle = Bundle.create(short_dir, f"vm-{number}", VmConfig(), application=name)
        bundle.console_log.write_bytes(b"booted")
    node: Any = SimpleNamespace(vms=short_dir, driver=SimpleNamespace(name="process"))
    vms = Vms(Roster(), node)
    shop = Identity(Kind.TOKEN, "ci", frozenset({Scope.READ}), "shop")
    async with AsyncExitStack() as stack:

        async def follow(name: str, viewer: Identity) -> None:
            console = vms.console(name, follow=True, viewer=viewer)
            assert await anext(await stack.enter_async_context(aclosing(console))) == b"booted"

        for _ in range(MAX_FOLLOWERS // 2):
            await follow("shop/cart", shop)
        with pytest.raises(ResourceExhausted, match="half of them of one tenant"):
            await follow("shop/cart", shop)
        await follow("rival/till", replace(shop, tenant="rival"))
        for _ in range(MAX_FOLLOWERS // 2 - 1):
            await follow("shop/cart", LOCAL)
        with pytest.raises(ResourceExhausted):
            await follow("rival/till", LOCAL)
    assert "0 consoles followed" in repr(vms)
