"""What a node that is one of a cluster has besides what every node has, put together.

The builder calls it in the order of the node's start: `open_clustering`, `attach` when the registry
is open, `share` when there are tokens and secrets, `join` when the node serves. At the end `cease`
comes before the applications are stopped, and `leave` after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import time_ns
from typing import Any

from plexspaces_node import __version__
from plexspaces_node.address import split_address
from plexspaces_node.config import Config
from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.info import ClusterInfo, NodeInfo
from plexspaces_node.model import ArtifactKind, split_name
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.api.listen import check_can_listen
from plexspaces_node.node.applications.capacity import Bounds
from plexspaces_node.node.applications.clustered import Clustered
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.cluster.adoption import publish_applications
from plexspaces_node.node.cluster.desires import Desires
from plexspaces_node.node.cluster.founding import check_brings_nothing, publish
from plexspaces_node.node.cluster.grants import Grants
from plexspaces_node.node.cluster.here import HereOnly
from plexspaces_node.node.cluster.identity import ClusterIdentity
from plexspaces_node.node.cluster.leader import ClusterLeader
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.cluster.local import LocalApplications
from plexspaces_node.node.cluster.look import Parts
from plexspaces_node.node.cluster.membership import Membership
from plexspaces_node.node.cluster.mirror import META, Meta, Mirror, decoded
from plexspaces_node.node.cluster.nodes import ClusterNodes
from plexspaces_node.node.cluster.operations import ClusterOperations
from plexspaces_node.node.cluster.peer_calls import PeerCalls
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.cluster.preflight import check_id_is_free
from plexspaces_node.node.cluster.rebuild import Settling
from plexspaces_node.node.cluster.reconcile import Reconciler
from plexspaces_node.node.cluster.records import Node, node_key
from plexspaces_node.node.cluster.state_removal import existing, sweep
from plexspaces_node.node.cluster.states import ActorStates
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.http.peering import Membership as Peers
from plexspaces_node.node.http.peering import Peering
from plexspaces_node.node.nats.bucket import SYNCED, Bucket, Entry, Fence
from plexspaces_node.node.nats.engine import Engine, EngineConfig, ExternalNats, open_engine
from plexspaces_node.node.registry.cluster_records import Remembered
from plexspaces_node.node.registry.registry import ApplicationRecord, Registry
from plexspaces_node.settings import labels_of
from plexspaces_node.tasks import cancel

SETTLE_AGAIN_S = 0.5
"""Between two attempts to read the registry while NATS is away."""

FIND_S = 60.0
"""How long a node that joins looks for its cluster."""

SEEN_S = 3.0
"""How long the start of a node that knows its cluster waits for it."""

UPKEEP_S = 2.0
"""Between two looks at how many servers there are."""

SWEEP_S = 60.0
"""Between two looks for states of applications that are gone."""

_FIRST = ("reconcile", "lead", "upkeep")
"""What ends before the applications are stopped."""

_ERA_BITS, _ERA_NS = 36, 60_000_000_000
"""A registry that is made anew counts its writes from 1: the minute of its creation comes first in
an epoch. So many bits are left for the writes of one registry."""

_OWN_ADDRESS = "choose another with --cluster-address; the two ports after it must be free too"

_log = logging.getLogger(__name__)


class _States(ActorStates):
    """The states of actors, whose epochs also grow when the registry is made anew.

    Attributes:
        era: when the registry was made, in minutes; 0 as long as that is not known.
    """

    def __init__(self, node: str, store: ReplicatedStore, bucket: Bucket) -> None:
        super().__init__(node, store, bucket)
        self.era = 0
        self._store = store

    async def take(self, name: str, id_: str, epoch: int, *, is_first: bool = False) -> Fence:
        return await self._store.take(name, id_, self.era << _ERA_BITS | epoch, is_first=is_first)


class Clustering:
    """A node's part in its cluster. Its methods are called in the order of the node's life."""

    def __init__(self, config: Config, identity: ClusterIdentity, engine: Engine) -> None:
        self._config = config
        self._identity = identity
        self._engine = engine
        self.node = config.node.id
        self.lease = Lease()
        self.view = ClusterView(engine.registry)
        # Before the view runs: it notes when it hears of each node.
        self._leader = ClusterLeader(engine.registry, self.view, self.node)
        self.nodes = ClusterNodes(
            identity.name,
            self.node,
            engine.registry,
            self.view,
            copies=lambda: engine.replicas,
            has_majority=self.lease.is_held,
            forget_server=engine.remove_server,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._settled = asyncio.Event()
        self._sweep_at_s = 0.0
        self._registry_id = ""

    def __repr__(self) -> str:
        return f"<Clustering of {self.node} in {self._identity.name}>"

    # ---- the start, step by step -----------------------------------------------------------

    async def attach(self, registry: Registry) -> Clustered:
        """Begin with what the registry remembers of the cluster; return what actors need of it.

        Raises `WrongState` for a node that joins and has applications of its own.
        """
        self._remembered = await registry.cluster.load()
        if self._identity.is_new and self._remembered.records:
            # Of another cluster: the directory was restored from a backup of one of its nodes.
            gone = [Entry(one.key, None, one.revision) for one in self._remembered.records]
            await registry.cluster.write(gone, 0)
            self._remembered = await registry.cluster.load()
        if not self._remembered.records and not self._identity.founds:
            await check_brings_nothing(registry)
        self._registry = registry
        self._mirror = Mirror(registry.cluster)
        self.view.follow("", self._mirror.note)
        store = ReplicatedStore(
            registry, self._engine.state, node=self.node, on_fenced=self._fenced
        )
        self.states = _States(self.node, store, self._engine.state)
        return Clustered(store, self.lease)

    def waits(self, record: ApplicationRecord) -> bool:
        """Return whether an application may only be started with the cluster's consent."""
        return record.kind is ArtifactKind.ACTOR

    async def share(self, applications: Applications, context: NodeContext, tokens: Tokens) -> None:
        """Have tokens, quotas and secrets be the cluster's, and know what there is of them.

        Waits for the registry, unless this node remembers one: then it serves with that, and goes
        on in the background.
        """
        secrets = context.secrets
        self._grants = Grants(
            self._engine.registry,
            self._identity.token,
            self.node,
            registry=self._registry,
            tokens=tokens,
            secrets=secrets,
            quotas=applications.quotas,
            restart=applications.secret_users.restart,
            users=partial(_users_of_secrets, self.view),
        )
        self._grants.follow(self.view)
        self.view.load(await self._mirror.load())

        async def found() -> None:
            await publish(
                self._engine.registry, self._identity.token, self._registry, tokens, secrets.source
            )
            desires = Desires(self._engine.registry, self.view)
            if count := await publish_applications(self.node, self._registry, desires):
                _log.info("%d applications of this node are the cluster's now", count)

        self._run("settle", self._settle(found if self._identity.founds else None))
        if not self._remembered.records:
            await self._found()

    async def _found(self) -> None:
        """Wait until this node has found its cluster; raises `Unavailable` if it does not."""
        settling = self._tasks["settle"]
        done, _ = await asyncio.wait([settling], timeout=FIND_S)
        if done:
            return settling.result()
        where = ", ".join(self._identity.join) or self._config.nats.url or "its NATS server"
        raise Unavailable(
            f"no node of the cluster {self._identity.name!r} answers at {where} within "
            f"{FIND_S:.0f} s",
            hint="at one of its nodes: plexspaces nodes, plexspaces nodes token; and compare the "
            "address that it was started with",
        )

    def peers(self) -> Peers:
        """Return what the ways between this node and the others need to know."""
        http, grpc = peer_addresses(self._config)
        authority = self._identity.token.authority(self._identity.name)
        return Peers(self.node, self.view, authority, http_address=http, grpc_address=grpc)

    async def describe(self) -> ClusterInfo:
        """Return the cluster and its nodes, as this node knows them."""
        return await self.nodes.describe()

    def operate(
        self, applications: Applications, context: NodeContext, ways: Peering
    ) -> tuple[ClusterOperations, HereOnly]:
        """Return the operations on the cluster's applications, and those that other nodes ask."""
        self._ways = ways
        local = LocalApplications(applications)
        self._reconciler = Reconciler(
            self.node,
            self._engine.registry,
            self.view,
            local=local,
            store=context.artifacts,
            pulls=ways.pulls,
            states=self.states,
            lease=self.lease,
            may_act=lambda: not self._mirror.is_of_another,
        )
        parts = Parts(
            node=self.node,
            cluster=self._identity.name,
            applications=applications,
            capabilities=context.driver.capabilities,
            store=context.artifacts,
            secrets=context.secrets,
            quotas=context.quotas,
            states=self.states,
            peers=PeerCalls(ways.channels),
        )
        self._operations = ClusterOperations(parts, self._engine.registry, self.view)
        return self._operations, HereOnly(applications, self._operations)

    async def join(self, info: NodeInfo, bounds: Bounds) -> None:
        """Be a member from now on; the node serves already, the other nodes too.

        Returns when the cluster knows it, or at once if NATS is away and this node knows the
        cluster already: then it joins in the background.
        """
        node = Node(
            id=self.node,
            http=self._ways.ports.http,
            grpc=self._ways.ports.grpc,
            version=__version__,
            level=info.isolation,
            memory_mib=bounds.memory_mib,
            applications=bounds.applications,
            incarnation=time_ns(),
            route=self._engine.route,
            server=self._engine.server_name,
            labels=labels_of(self._config.cluster.labels),
        )
        self._membership = Membership(
            *(self._engine.registry, node, self.lease),
            on_lease_lost=self._reconciler.lease_lost,
        )
        joined = asyncio.get_running_loop().create_future()
        self._run("membership", self._be_member(joined))
        # Otherwise only for a moment: then it is announced with who is there.
        timeout_s = SEEN_S if self._remembered.records else None
        being = self._tasks["membership"]
        both = (joined, being)
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if being.done():
            # It does not end by itself, but by an error.
            await being

    # ---- the end ---------------------------------------------------------------------------

    async def cease(self) -> None:
        """Change nothing here any more, and lead no more; before the applications are stopped."""
        await cancel(*(task for name, task in self._tasks.items() if name in _FIRST))
        await self._operations.aclose()
        with suppress(PlexSpacesError):
            await self._leader.resign()

    async def leave(self) -> None:
        """Say that this node has stopped; its actors have, and their states are handed over."""
        if (membership := self._tasks.pop("membership", None)) is not None:
            await cancel(membership)
            await self._membership.leave()

    async def aclose(self) -> None:
        """End what runs in the background. Idempotent."""
        await cancel(*self._tasks.values())

    # ---- what runs in the background -------------------------------------------------------

    async def _settle(self, found: Callable[[], Awaitable[None]] | None) -> None:
        """Find out what the registry has, and follow it from then on."""
        settling = Settling(self._engine.registry, self.node)
        said = ""
        while True:
            try:
                registry = self._engine.registry
                if found and not self._remembered.records and await registry.get(META) is not None:
                    # It joins: with a NATS elsewhere, no flag has said so.
                    await check_brings_nothing(self._registry, registry)
                await settling.settle(self._remembered, found)
                meta = await self._engine.registry.get(META)
                if (known := decoded(meta.value if meta else None, Meta)) is not None:
                    self._registry_id = known.id
                    self.states.era = known.created_ns // _ERA_NS
                break
            except Unavailable as error:
                if said != error.message:
                    said = error.message
                    _log.info("the registry of the cluster is not there yet: %s", error)
                await asyncio.sleep(SETTLE_AGAIN_S)
        self._run("view", self.view.run())
        self._run("mirror", self._mirror.run())
        self._run("grants", self._grants.run())
        await self.view.synced.wait()
        self._mirror.note(SYNCED)
        await self._grants.end_untold()
        self._settled.set()
        # Not before it is remembered: what this node had is not taken for a joining node's then.
        await self._mirror.written()
        await asyncio.to_thread(self._identity.founded)

    async def _be_member(self, joined: asyncio.Future[None]) -> None:
        await self._settled.wait()
        await _check_alone(self._membership, self._remembered)
        await self._membership.join()
        await self._operations.recover()
        self._run("reconcile", self._reconciler.run())
        self._run("lead", self._leader.run())
        self._run("upkeep", self._keep_up())
        await self._seen()
        joined.set_result(None)
        await self._membership.run()

    async def _seen(self) -> None:
        """Return when this node's view has the node itself."""
        changed = asyncio.Event()
        forget = self.view.on_change(lambda _kind, _whose: changed.set())
        try:
            while not self.view.is_alive(self.node):
                await changed.wait()
                changed.clear()
        finally:
            forget()

    async def _keep_up(self) -> None:
        """Have as many copies as there are servers for, and know where those are."""
        said = ""
        while True:
            try:
                nodes = tuple(self.view.nodes.values())
                await asyncio.to_thread(
                    self._engine.know_routes, tuple(one.route for one in nodes if one.route)
                )
                if self._leader.leadership.leads:
                    servers = [one for one in nodes if one.server and self.view.is_alive(one.id)]
                    await self._engine.grow(len(servers))
                    await self._engine.lead_here()
                    await self._sweep()
                else:
                    await self._engine.look()
                said = ""
            except PlexSpacesError as error:
                # Once for as long as it lasts.
                if said != error.message:
                    said = error.message
                    _log.info("the NATS servers are not looked after for now: %s", error)
            await asyncio.sleep(UPKEEP_S)

    async def _sweep(self) -> None:
        """Remove what applications that are gone have left in the bucket of states."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._sweep_at_s:
            return
        self._sweep_at_s = loop.time() + SWEEP_S
        await sweep(self._engine.state, lambda: existing(self._engine.registry, self._registry_id))

    def _fenced(self, name: str) -> None:
        self._reconciler.fenced(name)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"cluster: {name}")
        task.add_done_callback(_ended)
        self._tasks[name] = task


@asynccontextmanager
async def open_clustering(config: Config, data: DataDirectory) -> AsyncIterator[Clustering | None]:
    """Open the part of a node in its cluster, and end it at the end; None for a node alone.

    A node that founds a cluster waits some seconds for its NATS server. Raises `InvalidArgument`,
    `WrongState` and `Unsupported` as `ClusterIdentity.of` and `open_engine` do, and `Unavailable`
    for an address that is taken.
    """
    identity = ClusterIdentity.of(data.path, config.cluster, os.environ)
    if identity is None:
        yield None
        return
    if identity.is_new:
        what = "founding" if identity.founds else f"joining {', '.join(identity.join)} of"
        _log.info("%s the cluster %s", what, identity.name)
    if identity.is_new and identity.join and not config.nats.url:
        tls = PeerTls(identity.token.authority(identity.name), config.node.id)
        await check_id_is_free(config.node.id, identity.join, tls)
    await asyncio.to_thread(identity.keep)
    is_given = partial(_is_given, config)
    section = await asyncio.to_thread(identity.own, config.cluster, is_given)
    config = config.model_copy(update={"cluster": section})
    if not config.nats.url:
        await check_can_listen(section.address, hint=_OWN_ADDRESS)
    for address in peer_addresses(config):
        await check_can_listen(address, hint=_OWN_ADDRESS)
    async with open_engine(_engine_config(config, data, identity)) as engine:
        clustering = Clustering(config, identity, engine)
        try:
            yield clustering
        finally:
            await clustering.aclose()


def _engine_config(config: Config, data: DataDirectory, identity: ClusterIdentity) -> EngineConfig:
    nats, external = config.nats, None
    if nats.url:
        external = ExternalNats(
            urls=tuple(filter(None, map(str.strip, nats.url.split(",")))),
            user=nats.user,
            password_file=nats.password_file,
            credentials_file=nats.credentials_file,
            ca_file=nats.ca_file,
        )
    return EngineConfig(
        node_id=config.node.id,
        cluster=identity.name,
        token=identity.token,
        directory=data.path / "nats",
        routes_file=identity.routes_file,
        address=config.cluster.address,
        join=identity.join,
        external=external,
    )


def _is_given(config: Config, key: str) -> bool:
    return config.origin(key) != "default"


def peer_addresses(config: Config) -> tuple[str, str]:
    """Return HOST:PORT for other nodes' messages, and for their calls: the ports after NATS's."""
    host, port = split_address(config.cluster.address)
    shown = f"[{host}]" if ":" in host else host
    return (
        f"{shown}:{port + 1 if port else 0}",
        f"{shown}:{port + 2 if port else 0}",
    )


def _users_of_secrets(view: ClusterView, tenant: str) -> Mapping[str, tuple[str, ...]]:
    """Return the applications of a tenant that use each secret, by the secret's name."""
    users: dict[str, tuple[str, ...]] = {}
    for name, application in view.applications.items():
        if split_name(name)[0] == tenant:
            for secret in application.secrets.values():
                users[secret] = (*users.get(secret, ()), name)
    return users


async def _check_alone(membership: Membership, remembered: Remembered) -> None:
    """Raise `WrongState` if another node with this one's id is up; waits for the registry."""
    key, former = node_key(membership.node.id), 0
    for one in remembered.records:
        if one.key == key and (known := decoded(one.value, Node)) is not None:
            former = known.incarnation
    while True:
        try:
            return await membership.check_alone(former)
        except Unavailable as error:
            _log.info("joining the cluster: %s", error)
            await asyncio.sleep(SETTLE_AGAIN_S)


def _ended(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, PlexSpacesError):
        _log.error("%s has ended: %s; %s", task.get_name(), error.message, error.hint)
    else:
        _log.error("%s has failed", task.get_name(), exc_info=error)
