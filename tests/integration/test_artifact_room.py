"""A node whose disk is bounded: artifacts that no application refers to go, all others stay."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import nodes
from support.nodes import builder, node_process
from support.patience import patient
from support.traces import assert_nothing_left, ended

from plexspaces_node import NodeClient
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import ApplicationState, VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.process.driver import ProcessDriver, ProcessVm


def numbered(probe_wasm: Path, number: int) -> bytes:
    """Return the probe as an artifact of its own: with a section that means nothing."""
    return probe_wasm.read_bytes() + bytes([0, 3, 1, ord("n"), number])


def stored(data_dir: Path) -> set[str]:
    """Return the digests of the artifacts on disk; each has its compiled form, or there is none."""
    digests = {path.stem for path in (data_dir / "artifacts").iterdir()}
    assert len(list((data_dir / "cache").iterdir())) == 2 * len(digests)
    return digests


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def keeping_nothing(data_dir: Path) -> AsyncIterator[NodeClient]:
    """Run a node that keeps no artifact beyond its last application.

    One that was compiled, or that a client asked for, stays for a minute, or until the next start.
    """
    built = builder(data_dir).with_setting("limits.unused_artifact_bytes", 0).build()
    async with built as node, NodeClient(node.address) as client:
        yield client


async def reached(data_dir: Path, digests: set[str]) -> None:
    async with asyncio.timeout(patient(20)):
        while {path.stem for path in (data_dir / "artifacts").iterdir()} != digests:
            await asyncio.sleep(0.01)
        while len(list((data_dir / "cache").iterdir())) != 2 * len(digests):
            await asyncio.sleep(0.01)


async def test_undeploy_lets_go_of_what_no_other_application_refers_to(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Two applications of one artifact: it goes with the second, and can be deployed anew."""
    one, other = numbered(probe_wasm, 1), numbered(probe_wasm, 2)
    async with keeping_nothing(data_dir) as client:
        await client.deploy("one", one)
        await client.deploy("two", one)
        await client.deploy("other", other)
        await client.undeploy("one")
        await client.undeploy("other")
    async with keeping_nothing(data_dir) as client:
        await reached(data_dir, {digest_of(one)})
        await nodes.reached(client, "two")
        assert (await client.invoke("two", b"x", type="e")).payload == b"x"
        await client.undeploy("two")
    async with keeping_nothing(data_dir) as client:
        await reached(data_dir, set())
        assert not await client.find_artifact(digest_of(one))
        info = await client.deploy("one", one)
        assert not info.timings.compile_cached
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_applications_in_every_state_keep_their_artifact_also_after_a_restart(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Running, stopped and failed ones can all be started again; what was undeployed is gone."""
    wasms = [numbered(probe_wasm, number) for number in range(4)]
    driver = _Failing()
    async with (
        builder(data_dir).with_driver(driver).build() as node,
        NodeClient(node.address) as client,
    ):
        for number, wasm in enumerate(wasms):
            await client.deploy(f"app-{number}", wasm)
        await client.stop("app-1")
        await client.stop("app-2")
        driver.fails = True
        with pytest.raises(PlexSpacesError):
            await client.start("app-2")
        assert (await client.inspect("app-2")).state is ApplicationState.FAILED
        await client.undeploy("app-3")
        assert len(stored(data_dir)) == 4, "within the default limit it is kept for a re-deploy"
    async with keeping_nothing(data_dir) as client:
        await reached(data_dir, {digest_of(wasm) for wasm in wasms[:3]})
        for number in range(3):
            async with asyncio.timeout(patient(30)):
                while (await client.inspect(f"app-{number}")).state is ApplicationState.STARTING:
                    await asyncio.sleep(0.01)
            info = await client.start(f"app-{number}")
            assert info.timings.compile_cached
            assert (await client.invoke(f"app-{number}", b"x", type="e")).payload == b"x"


class _Failing(ProcessDriver):
    """Starts no machine while it is told to fail."""

    fails = False

    async def start(self, config: VmConfig, bundle: Bundle) -> ProcessVm:
        if self.fails:
            raise OSError("no machine today")
        return await super().start(config, bundle)


async def test_deploy_that_fails_or_is_refused_holds_nothing(
    data_dir: Path, probe_wasm: Path
) -> None:
    """A deploy under a name that is taken and one that goes away let go of their artifacts."""
    one, two = numbered(probe_wasm, 1), numbered(probe_wasm, 2)
    async with keeping_nothing(data_dir) as client:
        await client.deploy("one", one)

        def leave(progress: object) -> None:
            if "load" in str(progress):
                deploying.cancel()

        deploying = asyncio.create_task(client.deploy("two", two, on_progress=leave))
        await asyncio.wait([deploying])
    async with keeping_nothing(data_dir) as client:
        await reached(data_dir, {digest_of(one)})
        await nodes.reached(client, "one")
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_kill_9_of_a_node_over_its_limit_then_the_next_start_prunes(
    data_dir: Path, probe_wasm: Path
) -> None:
    """After a kill a node knows which artifacts its applications need, and keeps those alone."""
    one, two = numbered(probe_wasm, 1), numbered(probe_wasm, 2)
    with node_process(data_dir) as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", one)
            await client.deploy("two", two)
            await client.undeploy("two")
            process.kill()
            process.wait(10)
    await ended(data_dir)
    assert len(stored(data_dir)) == 2
    async with keeping_nothing(data_dir) as client:
        await reached(data_dir, {digest_of(one)})
        await nodes.reached(client, "one")
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"
        await client.undeploy("one")
    async with keeping_nothing(data_dir):
        await reached(data_dir, set())
        assert_nothing_left(data_dir)
