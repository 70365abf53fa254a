"""Some nodes that are one cluster, for a test; nothing of them is left at its end."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from support.cluster.network import Network, network, small_disk
from support.cluster.node import CLUSTER, ROUTES_PORT, ClusterNode
from support.cluster.sending import NoAnswerError, NotSentError, Sender
from support.patience import patient

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import ApplicationState

NAMES = "abcdefghi"
RUNNING = ApplicationState.RUNNING.value
OK = 200
MOST_COPIES = 3


class Cluster:
    """The nodes of a cluster.

    Attributes:
        network: what connects them, None if all are on this host.
    """

    def __init__(self, nodes: list[ClusterNode], network: Network | None) -> None:
        self.nodes = nodes
        self.network = network
        self.last_disagreement = ""

    def __repr__(self) -> str:
        return f"<Cluster {self.nodes}>"

    def __getitem__(self, id: str) -> ClusterNode:
        return next(node for node in self.nodes if node.id == id)

    def others(self, *nodes: ClusterNode) -> list[ClusterNode]:
        """Return all nodes but these."""
        return [node for node in self.nodes if node not in nodes]

    async def start(self) -> None:
        """Start the first node, and the others when there is one to join."""
        first, *others = self.nodes
        first.start("--cluster", CLUSTER)
        await first.serving()
        for node in others:
            node.start("--join", first.route, token=first.token)
        await asyncio.gather(*(node.serving() for node in others))

    async def restart(self) -> None:
        """Let everything pass and go on, and start what is not there."""
        if self.network is not None:
            self.network.heal()
        for node in self.nodes:
            node.resume()
            if not node.is_up:
                node.start()
        await asyncio.gather(*(node.serving() for node in self.nodes))

    def cut_off(self, *nodes: ClusterNode) -> None:
        """Let these reach each other, and none of the others."""
        assert self.network is not None
        groups = [list(nodes), self.others(*nodes)]
        self.network.part(*([one.host for one in group if one.host] for group in groups))

    def deafen(self, node: ClusterNode) -> None:
        """Let nothing arrive at a node; what it sends arrives."""
        assert self.network is not None
        assert node.host is not None
        self.network.cut({(other.host, node.host) for other in self.others(node) if other.host})

    def heal(self) -> None:
        """Let everything pass."""
        assert self.network is not None
        self.network.heal()

    async def agrees(self, *applications: str) -> None:
        """Wait until each node says that all nodes are up, and that these applications run.

        And answers for each of them; raises `TimeoutError` after two minutes.
        """
        async with asyncio.timeout(patient(120)):
            for node in self.nodes:
                while (why := await _disagrees(node, len(self.nodes), applications)) is not None:
                    self.last_disagreement = f"{node.id}: {why}"
                    await asyncio.sleep(0.1)

    def logs(self) -> str:
        """Return what it last waited for, and the ends of all logs, for a test that fails."""
        told = f"last disagreement: {self.last_disagreement}\n"
        return told + "\n".join(f"=== {node.id}\n{node.log_tail()}" for node in self.nodes)


@asynccontextmanager
async def cluster(
    directory: Path,
    count: int,
    *,
    in_network: bool = True,
    disk_mib: Mapping[str, int] | None = None,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Cluster]:
    """Start a cluster whose nodes serve; at the end nothing is left of it.

    With `in_network` each is on a host of its own. `disk_mib` gives nodes a file system of their
    own for their data, by their names.
    """
    with ExitStack() as stack:
        made = stack.enter_context(network(count)) if in_network else None
        nodes = []
        # So that two tests at the same time have nothing in common.
        base = f"127.{random.randrange(100, 250)}.{os.getpid() % 250}"
        for at, id in enumerate(NAMES[:count]):
            data_dir = directory / id
            if disk_mib and id in disk_mib:
                stack.enter_context(small_disk(data_dir, disk_mib[id]))
            host = made.hosts[at] if made is not None else None
            address = host.address if host is not None else f"{base}.{at + 1}"
            its = {"cluster.address": f"{address}:{ROUTES_PORT}", **(settings or {})}
            nodes.append(ClusterNode(id, data_dir, address=address, host=host, settings=its))
        running = Cluster(nodes, made)
        try:
            async with asyncio.timeout(patient(90)):
                await running.start()
            yield running
        except BaseException as error:
            error.add_note(running.logs())
            raise
        finally:
            for node in nodes:
                node.resume()
                node.crash()


async def _disagrees(node: ClusterNode, count: int, applications: Sequence[str]) -> str | None:
    """Return what is not as it is to be, as a node sees it."""
    try:
        async with node.client() as client:
            told = await client.nodes()
            listed = {one.name: one for one in (await client.list()).applications}
    except PlexSpacesError as error:
        return str(error)
    if len(told.nodes) != count or any(one.state != "up" for one in told.nodes):
        return f"nodes {[(one.id, one.state) for one in told.nodes]}"
    leads = any(one.leads and one.id == node.id for one in told.nodes)
    if leads and told.copies < min(count, MOST_COPIES):
        return f"{told.copies} copies of what it keeps"
    for name in applications:
        if (found := listed.get(name)) is None:
            return f"no {name} in {sorted(listed)}"
        running = [one.node for one in found.nodes if one.state == RUNNING]
        if len(running) != max(found.replicas, 1):
            return f"{name} runs on {running} of {found.nodes}: {found.placement}"
    sender = Sender(node)
    try:
        for name in applications:
            answer = await sender.send(name, "e", b"hello")
            if answer.status != OK:
                return f"{name} answers {answer.status}: {answer.body!r}"
    except (NotSentError, NoAnswerError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sender.close()
    return None
