"""Deployed means that a message can be answered: what cannot run is refused by client and node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.client import node as client_module
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.node import Node
from plexspaces_node.toolchains.wasm.assembly import assemble

WRITE = """(import "wasi_snapshot_preview1" "fd_write"
  (func (param i32 i32 i32 i32) (result i32)))"""
MEMORY = '(memory (export "memory") 1)'
START = '(func (export "_start"))'
RUN = """(component
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result u32) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"""

REFUSED = {
    "import": (f'(module (import "env" "f" (func)) {MEMORY} {START})', "'env'.* function f"),
    "no memory": (f"(module {WRITE} (memory 1) {START})", "exports no memory"),
    "memory": (f'(module (memory (export "memory") 40000) {START})', "2500 MiB .* gets 208"),
    "table": (f"(module {MEMORY} (table 100000000 funcref) {START})", "100000000 elements"),
    "start": (f'(module {MEMORY} (func (export "_start") (param i32)))', r"func\(i32\)"),
    "run": (RUN, r"func\(\) -> u32 and must be func\(\) -> result"),
    "threads": (f'(module (memory (export "memory") 1 2 shared) {START})', "uses threads"),
}


@pytest.fixture(params=["client", "node"])
async def refusing(
    request: pytest.FixtureRequest, node: Node, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NodeClient]:
    """A client that sends nothing useless, and one that leaves it to the node."""

    async def cannot_tell(_artifact: bytes) -> None:
        return None

    if request.param == "node":
        monkeypatch.setattr(client_module, "inspect", cannot_tell)
    async with NodeClient(node.address) as client:
        yield client


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_run_is_refused_and_nothing_is_left(
    refusing: NodeClient, data_dir: Path, text: str, said: str
) -> None:
    """By client or node: the same words with what helps, and neither code nor machine."""
    with pytest.raises(InvalidArgument, match=said) as caught:
        await refusing.deploy("one", assemble(text))
    assert caught.value.hint
    assert (await refusing.list()).applications == ()
    assert list((data_dir / "cache").iterdir()) == []


async def test_memory_declared_is_refused_where_it_does_not_fit_and_runs_where_it_does(
    refusing: NodeClient,
) -> None:
    """The size in the hint is enough, for what was compiled before as well."""
    wasm = assemble(f'(module (memory (export "memory") 4000) {START})')
    with pytest.raises(InvalidArgument, match=r"250 MiB .* gets 208") as caught:
        await refusing.deploy("one", wasm)
    assert "--memory 298" in (caught.value.hint or "")
    await refusing.deploy("one", wasm, options=DeployOptions(memory_mib=298))
    assert (await refusing.invoke("one", b"")).payload == b""
    with pytest.raises(InvalidArgument, match=r"250 MiB .* gets 207"):
        await refusing.deploy("two", wasm, options=DeployOptions(memory_mib=255))
