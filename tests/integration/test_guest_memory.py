"""Guests with little memory: long messages, and actors that take all they can.

Needs QEMU and a guest image: run when `--drivers` names qemu. By emulation such a message takes
seconds.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.actors import ACTORS
from support.machines import QemuHarness
from support.nodes import builder
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorTrapped
from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, MIB
from plexspaces_node.toolchains.wasm.assembly import assemble

SMALL_MIB = 128
PATIENCE_S = 120

_FOUL = """
    (func $foul (local $at i32) (local $noise i64)
      (local.set $at (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8)))
      (local.set $noise (i64.const 88172645463325252))
      (loop $more
        (local.set $noise (i64.xor (local.get $noise)
          (i64.shl (local.get $noise) (i64.const 13))))
        (local.set $noise (i64.xor (local.get $noise)
          (i64.shr_u (local.get $noise) (i64.const 7))))
        (local.set $noise (i64.xor (local.get $noise)
          (i64.shl (local.get $noise) (i64.const 17))))
        (i64.store (local.get $at) (local.get $noise))
        (br_if $more (local.tee $at (i32.sub (local.get $at) (i32.const 8))))))
"""
"""Writes noise over all of the memory but its first word."""


@pytest.fixture
async def client(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path
) -> AsyncIterator[NodeClient]:
    """A node on the QEMU driver, where it is named, that takes the longest messages there are."""
    if "qemu" not in request.config.getoption("--drivers").split(","):
        pytest.skip("boots machines: name it with --drivers=qemu")
    harness, health = await QemuHarness.probed(tmp_path)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    build = builder(data_dir).with_setting("limits.message_bytes", MAX_MESSAGE_LIMIT_BYTES)
    async with (
        build.with_driver(harness.driver).build() as node,
        NodeClient(node.address) as client,
    ):
        yield client
    assert_nothing_left(data_dir)


def _bomb() -> bytes:
    """Return the probe, whose message `m` fills all it gets with noise before it traps."""
    text = (ACTORS / "probe.wat").read_text().replace("i32.const INIT", "i32.const 0")
    grown = "(br $more)))"
    assert text.count(grown) == 1
    text = text.replace(grown, f"{grown}\n (call $foul)")
    at = text.index("(global $counter")
    return assemble(text[:at] + _FOUL + text[at:])


async def _answers_still(client: NodeClient) -> None:
    """The actor answers, and in the machine it was deployed to."""
    assert (await client.invoke("one", b"x", type="e", timeout_s=PATIENCE_S)).payload == b"x"
    assert (await client.inspect("one")).restarts == 0


async def test_long_message_in_a_small_guest_is_carried(
    client: NodeClient, probe_wasm: Path
) -> None:
    """300 kB and their reply are 48 MiB for a moment, of which the guest has 20."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=SMALL_MIB))
    long = os.urandom(300_000)
    reply = await client.invoke("one", long, type="e", timeout_s=PATIENCE_S)
    assert reply.payload == long
    await _answers_still(client)


async def test_longest_message_comes_back_from_a_small_guest(
    client: NodeClient, probe_wasm: Path
) -> None:
    """A byte costs the guest a few bytes: the node's limit for a message fits into the least."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=SMALL_MIB))
    message = os.urandom(16 * MIB)
    outcome = await client.invoke("one", message, type="e", timeout_s=PATIENCE_S)
    assert outcome.payload == message
    await _answers_still(client)


async def test_memory_bomb_in_a_small_guest_traps_and_the_next_message_is_answered(
    client: NodeClient, tmp_path: Path
) -> None:
    """Its own memory ends before the machine's, full of what no swap space makes smaller."""
    wasm = tmp_path / "bomb.wasm"
    wasm.write_bytes(_bomb())
    await client.deploy("one", wasm, options=DeployOptions(memory_mib=SMALL_MIB))
    with pytest.raises(ActorTrapped):
        await client.invoke("one", type="m", timeout_s=PATIENCE_S)
    await _answers_still(client)
