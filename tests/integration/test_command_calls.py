"""What a command is given at its deploy, and what it hands over: arguments, status, output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.nodes import builder, reached
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, ActorTrapped, InvalidArgument


@pytest.mark.parametrize("status", [1, 125, 126, 127, 255])
async def test_command_that_fails_hands_over_what_it_wrote_and_its_status(
    client: NodeClient, command_wasm: Path, status: int
) -> None:
    """Nothing that a program said is lost, whatever status it ends with."""
    await client.deploy("one", command_wasm)
    said = b"y" + bytes([status]) + bytes(range(256)) * 1000
    with pytest.raises(ActorFailed) as caught:
        await client.invoke("one", said)
    assert (caught.value.code, caught.value.output) == (f"exit-{status}", said)


async def test_command_that_traps_hands_over_what_it_wrote(
    client: NodeClient, command_wasm: Path
) -> None:
    """The same of a program that ends in a trap."""
    await client.deploy("one", command_wasm)
    with pytest.raises(ActorTrapped) as caught:
        await client.invoke("one", b"q: 12 rows")
    assert caught.value.output == b"q: 12 rows"


async def test_command_finds_its_arguments_and_keeps_them(
    data_dir: Path, command_wasm: Path
) -> None:
    """After its name, as they were given; over a stop, a replacing and a node that starts again."""
    options = DeployOptions(args=("-l", "", "zwei Worte", "größe"), concurrency=3, env={"A": "1"})
    expected = "one\0-l\0\0zwei Worte\0größe\0".encode()
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        info = await client.deploy("one", command_wasm, options=options)
        assert (info.args, info.concurrency) == (options.args, 3)
        assert (await client.invoke("one", b"a")).payload == expected
        await client.stop("one")
        await client.start("one")
        assert (await client.invoke("one", b"a")).payload == expected
        info = await client.deploy("one", command_wasm, options=DeployOptions(replace=True))
        assert (info.args, info.concurrency) == (options.args, 3)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await reached(client, "one")
        assert (await client.invoke("one", b"a")).payload == expected
        wish = DeployOptions(replace=True, args=("other",), vcpus=1)
        await client.deploy("one", command_wasm, options=wish)
        assert (await client.invoke("one", b"a")).payload == b"one\0other\0"
        await client.undeploy("one")
        info = await client.deploy("one", command_wasm)
        assert (info.args, info.concurrency) == ((), info.vm_config.vcpus)


@pytest.mark.parametrize(
    "options", [DeployOptions(args=("-l",)), DeployOptions(concurrency=2)], ids=["args", "at-once"]
)
async def test_actor_that_is_given_what_only_a_command_takes_is_refused(
    client: NodeClient, data_dir: Path, probe_wasm: Path, options: DeployOptions
) -> None:
    """In words, and nothing is left; one that runs is not even stopped."""
    with pytest.raises(InvalidArgument, match="'one' is an actor"):
        await client.deploy("one", probe_wasm, options=options)
    assert_nothing_left(data_dir)
    before = await client.deploy("one", probe_wasm)
    with pytest.raises(InvalidArgument, match="'one' is an actor"):
        await client.deploy("one", probe_wasm, options=replace(options, replace=True))
    after = await client.inspect("one")
    assert (after.vm and after.vm.id) == (before.vm and before.vm.id)
