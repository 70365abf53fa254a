"""A cluster in one process: nodes that run nothing, a leader, and one registry in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.buckets import MemoryBucket, View

from plexspaces_node.errors import NotFound, Unavailable, WrongState, no_application
from plexspaces_node.info import ApplicationInfo, Listing
from plexspaces_node.model import (
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    beside,
)
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.requests import DeployRequest
from plexspaces_node.node.artifacts.report import ArtifactReport
from plexspaces_node.node.artifacts.store import Compiled, Inspected
from plexspaces_node.node.cluster.desired import encode
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.cluster.local import Here
from plexspaces_node.node.cluster.look import Parts
from plexspaces_node.node.cluster.operations import ClusterOperations
from plexspaces_node.node.cluster.placement import place
from plexspaces_node.node.cluster.reconcile import Reconciler
from plexspaces_node.node.cluster.records import (
    Beat,
    Node,
    NodeState,
    beat_key,
    node_key,
    placed_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Conflict, Entry
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired
from plexspaces_node.tasks import cancel
from plexspaces_node.vm.driver import Capabilities, LinkEnd

DIGEST = "d" * 64


class FakeStore:
    """The artifacts of a node.

    Attributes:
        kinds: what each is that is there, by full name.
        held: how often each is held.
        compiled: which were compiled.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, ArtifactKind] = {}
        self.held: dict[str, int] = {}
        self.compiled: list[str] = []

    async def has(self, name: str) -> bool:
        return name in self.kinds

    async def inspect(self, name: str, *, owner: str = "") -> Inspected:
        if name not in self.kinds:
            raise NotFound(f"no artifact {name}")
        return Inspected(ArtifactReport(self.kinds[name], Language.RUST, (), ()), upload_ns=7)

    async def compile(self, name: str, *, on_miss: Callable[[], None] | None = None) -> Compiled:
        report = (await self.inspect(name)).report
        if name not in self.compiled:
            self.compiled.append(name)
            if on_miss is not None:
                on_miss()
        return Compiled(Path(), report, cached=False, duration_ns=5)

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        self.hold(name)
        try:
            yield
        finally:
            self.release(name)

    def hold(self, name: str) -> None:
        self.held[name] = self.held.get(name, 0) + 1

    def release(self, name: str) -> None:
        self.held[name] -= 1


class FakeStates:
    """The states of actors, of which a test sees who had them.

    Attributes:
        owners: who has taken each, in order, with the epoch.
        forgotten: of which there is nothing any more.
    """

    def __init__(self, node: str, world: World) -> None:
        self._node = node
        self._world = world

    async def take(self, name: str, id_: str, epoch: int, *, is_first: bool = False) -> None:
        taken = self._world.taken.setdefault(id_, [])
        if taken and taken[-1][1] > epoch:
            raise WrongState(f"{name} is placed elsewhere")
        taken.append((self._node, epoch))

    async def leave(self, name: str) -> None:
        pass

    async def forget(self, name: str, id_: str) -> None:
        self._world.forgotten.add(id_)


STARTED = PhaseTimings(vm_ns=1, load_ns=2, init_ns=3, total_ns=6)


@dataclass
class _Runs:
    record: ApplicationRecord
    state: ApplicationState
    error: str = ""
    timings: PhaseTimings = STARTED
    moved: Callable[[], None] = lambda: None


class FakeLocal:
    """What a node runs.

    Attributes:
        log: what was done, in order.
        failing: by version what its start raises.
        gate: while it is clear, no start is done.
        unsaved: what a stop raises, None for nothing.
        ends: while it is clear, no actor is ended at once.
    """

    def __init__(self, node: str, world: World) -> None:
        self.node = node
        self.world = world
        self.runs: dict[str, _Runs] = {}
        self.log: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.ends = asyncio.Event()
        self.ends.set()
        self.unsaved: BaseException | None = None

    def names(self) -> tuple[str, ...]:
        return tuple(self.runs)

    def here(self, name: str) -> Here | None:
        if (one := self.runs.get(name)) is None:
            return None
        return Here(
            id=one.record.id,
            generation=one.record.generation,
            kind=one.record.kind,
            state=one.state,
            is_stopped=one.record.desired is Desired.STOPPED,
            error=one.error,
            vm_id=f"vm-{name}-{self.node}",
            timings=one.timings,
        )

    def watch(self, name: str, moved: Callable[[], None]) -> None:
        self.runs[name].moved = moved

    def note_compiled(self, name: str, compiled: Compiled) -> None:
        one = self.runs[name]
        one.timings = replace(one.timings, compile_ns=compiled.duration_ns)

    async def run(
        self,
        record: ApplicationRecord,
        *,
        prepare: Callable[[], Awaitable[object]],
        progress: Callable[[str], None],
        reason: str,
    ) -> None:
        name, known = record.name, self.runs.get(record.name)
        replaces = known is not None and known.state is ApplicationState.RUNNING
        if replaces:
            progress("stop")
            self.world.serving(name).discard(self.node)
        else:
            await prepare()
        try:
            progress("vm")
            self.log.append(f"start {name} {record.version}")
            await self.gate.wait()
            if (error := self.failing.get(record.version)) is not None:
                raise error
        except BaseException:
            if replaces:
                self.world.serves(name, self.node, known.record if known else record)
            raise
        self.runs[name] = _Runs(record, ApplicationState.RUNNING)
        self.world.serves(name, self.node, record)

    async def stop(self, name: str, *, force: bool) -> None:
        if self.unsaved is not None and not force:
            raise self.unsaved
        one = self.runs[name]
        self.log.append(f"stop {name}")
        self.world.serving(name).discard(self.node)
        one.state = ApplicationState.STOPPED
        one.record = replace(one.record, desired=Desired.STOPPED)

    async def remove(self, name: str, *, save: bool, force: bool) -> None:
        if self.unsaved is not None and not force:
            raise self.unsaved
        if self.runs.pop(name, None) is not None:
            self.log.append(f"remove {name}" + (" and save" if save else ""))
            self.world.serving(name).discard(self.node)

    async def halt(self, name: str) -> None:
        if (one := self.runs.get(name)) is None:
            raise no_application(name)
        await self.ends.wait()
        self.log.append(f"halt {name}")
        one.state = ApplicationState.STOPPED
        self.world.serving(name).discard(self.node)

    async def inspect(self, name: str) -> ApplicationInfo:
        if (one := self.runs.get(name)) is None:
            raise no_application(name)
        record = one.record
        return ApplicationInfo(
            id=record.id,
            name=name,
            version=record.version,
            state=one.state,
            language=record.language,
            kind=record.kind,
            digest=record.digest,
            timings=one.timings,
        )

    async def list(self, viewer: Any = None, tenant: str = "") -> Listing:
        return Listing(tuple([await self.inspect(name) for name in self.runs]), (), 1)


class NodeOf:
    """A node of a world."""

    def __init__(self, node: str, world: World) -> None:
        self.id = node
        self.bucket: View = world.bucket.view()
        self.view = ClusterView(self.bucket)
        self.local = FakeLocal(node, world)
        self.store = FakeStore()
        self.states = FakeStates(node, world)
        self.lease = Lease(lambda: asyncio.get_running_loop().time())
        self.lease.renew(1e9)
        self.reconciler = Reconciler(
            *(node, self.bucket, self.view),
            local=self.local,
            store=self.store,
            pulls=_Pulls(self, world),
            states=self.states,
            lease=self.lease,
        )
        self.quotas = Quotas()
        secrets: Any = SimpleNamespace(check=_no_secrets)
        applications: Any = self.local
        parts = Parts(
            node=node,
            cluster="test",
            applications=applications,
            capabilities=Capabilities(LinkEnd.GUEST_DIALS, 1, 4096, 8, "none", overhead_mib=0),
            store=self.store,
            secrets=secrets,
            quotas=self.quotas,
            states=self.states,
            peers=_Peers(world),
        )
        self.operations = ClusterOperations(parts, self.bucket, self.view)
        self.tasks = [asyncio.create_task(self.view.run())]
        self.tasks.append(asyncio.create_task(self.reconciler.run()))
        self.tasks.append(asyncio.create_task(self._recover()))

    async def _recover(self) -> None:
        await self.view.synced.wait()
        await self.operations.recover()

    def has(self, kind: ArtifactKind, name: str = "app") -> None:
        """Let somebody have uploaded an artifact for an application of this name."""
        self.store.kinds[beside(name, DIGEST)] = kind

    def deploy(
        self, name: str = "app", progress: Callable[[str], None] = lambda _: None, **fields: Any
    ) -> asyncio.Task[ApplicationInfo]:
        """Begin to deploy at this node."""
        given = {key: fields.pop(key) for key in ("request_id", "replace") if key in fields}
        fields.setdefault("vm_config", VmConfig(1, 64))
        spec = ApplicationSpec(name, DIGEST, **fields)
        return asyncio.create_task(self.operations.deploy(DeployRequest(spec, **given), progress))


class _Pulls:
    def __init__(self, node: NodeOf, world: World) -> None:
        self._node, self._world = node, world

    async def fetch(self, node: str, name: str) -> None:
        found = self._world.nodes[node].store.kinds.get(name)
        if node in self._world.silent or found is None:
            raise Unavailable(f"no {name} at {node}")
        self._node.store.kinds[name] = found


class _Peers:
    def __init__(self, world: World) -> None:
        self._world = world

    async def inspect(self, node: str, name: str) -> ApplicationInfo:
        return await self._at(node).inspect(name)

    async def list(self, node: str, viewer: Any, tenant: str) -> Listing:
        return await self._at(node).list(viewer, tenant)

    def _at(self, node: str) -> FakeLocal:
        if node in self._world.silent:
            raise Unavailable(f"{node} does not answer")
        return self._world.nodes[node].local


class World:
    """A cluster.

    Attributes:
        taken: who has taken the state of each actor, by id, in order.
        least: on how many nodes an application was served at least since `watch_least`.
        both: actors that were served on two nodes at once.
        silent: nodes that answer no other.
    """

    def __init__(self) -> None:
        self.bucket = MemoryBucket("registry")
        self.nodes: dict[str, NodeOf] = {}
        self.taken: dict[str, list[tuple[str, int]]] = {}
        self.forgotten: set[str] = set()
        self.both: list[str] = []
        self.least: dict[str, int] = {}
        self.silent: set[str] = set()
        self._serving: dict[str, _Counted] = {}
        self._leader: asyncio.Task[None] | None = None
        self._leads = ClusterView(self.bucket.view())

    def serving(self, name: str) -> _Counted:
        """Return the nodes that serve an application."""
        return self._serving.setdefault(name, _Counted(self, name))

    def serves(self, name: str, node: str, record: ApplicationRecord) -> None:
        """Note that a node serves an application."""
        self.serving(name).add(node)
        if record.kind is ArtifactKind.ACTOR and len(self.serving(name)) > 1:
            self.both.append(name)

    def add(self, node: str, *, memory_mib: int = 1024, **fields: Any) -> NodeOf:
        """Let a node join."""
        self.publish(node, memory_mib=memory_mib, **fields)
        self.bucket.write(beat_key(node), encode(Beat(incarnation=1, count=1)))
        self.nodes[node] = NodeOf(node, self)
        return self.nodes[node]

    def publish(
        self, node: str, *, memory_mib: int = 1024, state: NodeState = NodeState.UP, **fields: Any
    ) -> None:
        """Write a node's record."""
        record = Node(
            id=node,
            http="h:1",
            grpc="h:2",
            version="1",
            level="process",
            applications=10,
            incarnation=1,
            memory_mib=memory_mib,
            state=state,
            **fields,
        )
        self.bucket.write(node_key(node), encode(record))

    def declare_dead(self, node: str) -> None:
        """Do what a leader does about a node that is silent, and what that node does."""
        self.silent.add(node)
        for name in tuple(self._serving):
            if (one := self.nodes[node].local.runs.get(name)) and (
                one.record.kind is ArtifactKind.ACTOR
            ):
                self.serving(name).discard(node)
        self.bucket.write(beat_key(node), encode(Beat(incarnation=1, count=2, dead=True)))

    async def stop_node(self, node: str) -> None:
        """End a node without a word."""
        await cancel(*self.nodes[node].tasks)

    def lead(self) -> None:
        """Let somebody lead, from now on."""
        self._leader = asyncio.create_task(self._lead())

    async def _lead(self) -> None:
        view, bucket = self._leads, self.bucket.view()
        changed = asyncio.Event()
        view.on_change(lambda kind, whose: changed.set())
        following = asyncio.create_task(view.run())
        try:
            await view.synced.wait()
            while True:
                placed = {name: (where, epoch) for name, where, epoch in view.all_placed()}
                changes = place(
                    view.nodes,
                    {node for node in view.nodes if view.is_alive(node)},
                    view.applications,
                    {name: where for name, (where, _) in placed.items()},
                    view.statuses,
                )
                for name, where in changes.items():
                    with suppress(Conflict):
                        value = None if where is None else encode(where)
                        if value is None:
                            epoch = await bucket.delete(placed_key(name), revision=placed[name][1])
                        elif name in placed:
                            epoch = await bucket.update(placed_key(name), value, placed[name][1])
                        else:
                            epoch = await bucket.create(placed_key(name), value)
                        view.wrote(Entry(placed_key(name), value, epoch))
                await changed.wait()
                changed.clear()
        finally:
            await cancel(following)

    async def aclose(self) -> None:
        """End every node."""
        tasks = [task for node in self.nodes.values() for task in node.tasks]
        await cancel(*tasks, *([self._leader] if self._leader is not None else []))


class _Counted(set[str]):
    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self._world, self._name = world, name

    def discard(self, node: object) -> None:
        super().discard(node)
        if self._name in self._world.least:
            self._world.least[self._name] = min(self._world.least[self._name], len(self))


async def _no_secrets(name: str, secrets: Any) -> None:
    del name, secrets
