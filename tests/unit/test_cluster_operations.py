"""The operations on a cluster's applications, and what its nodes do about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.cluster_world import DIGEST, NodeOf, World

from plexspaces_node.errors import (
    ActorFailed,
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import ApplicationSpec, ApplicationState, ArtifactKind, VmConfig
from plexspaces_node.node.applications.requests import DeployRequest
from plexspaces_node.node.cluster.records import NodeState
from plexspaces_node.quota import Key, Subject

pytestmark = pytest.mark.virtual_time

ACTOR, COMMAND = ArtifactKind.ACTOR, ArtifactKind.COMMAND


async def eventually(said: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(300):
        while not said():
            await asyncio.sleep(0.01)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Three nodes, of which the first has an actor for `app`; somebody leads."""
    made = World()
    for name in ("a", "b", "c"):
        made.add(name)
    made.nodes["a"].has(ACTOR)
    made.lead()
    await eventually(lambda: all(node.view.synced.is_set() for node in made.nodes.values()))
    yield made
    await made.aclose()
    assert made.both == []
    for node in made.nodes.values():
        for artifact, count in node.store.held.items():
            assert count in (0, 1), artifact


@pytest.fixture
def a(world: World) -> NodeOf:
    """The node that is asked."""
    return world.nodes["a"]


def runs_on(world: World, name: str = "app") -> list[str]:
    """Return the nodes on which an application runs."""
    return sorted(world.serving(name))


async def test_deploy_when_there_is_room_then_it_runs_on_one_node_and_another_has_it(
    world: World, a: NodeOf
) -> None:
    """The answer says where, and what it took; the record is of an application."""
    phases: list[str] = []
    info = await a.deploy(progress=phases.append)
    (owner,) = runs_on(world)
    assert info.state is ApplicationState.RUNNING
    assert info.node == owner
    assert {each.node: each.state for each in info.nodes}[owner] == "Running"
    assert sorted(each.state for each in info.nodes) == ["Ready", "Running"]
    assert phases[0] == "place"
    assert "compile" in phases
    assert (info.timings.upload_ns, info.timings.compile_ns, info.timings.init_ns) == (7, 5, 3)
    assert info.timings.total_ns > 7
    application = a.view.application("app")
    assert application is not None
    assert (application.deploying, application.before, application.generation) == ("", b"", 1)


async def test_deploy_when_the_name_is_taken_then_it_is_refused_everywhere(
    world: World, a: NodeOf
) -> None:
    """Also by a node to which the news have not come: the registry decides."""
    other = world.nodes["b"]
    other.has(ACTOR)
    first, second = a.deploy(), other.deploy()
    done = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["AlreadyExists", "ApplicationInfo"]
    with pytest.raises(AlreadyExists, match="already deployed"):
        await other.deploy()
    assert len(runs_on(world)) == 1


async def test_deploy_when_the_request_is_repeated_then_the_answer_is_the_same(
    world: World, a: NodeOf
) -> None:
    """At any node; for another name it is refused."""
    first = await a.deploy(request_id="r1")
    world.nodes["b"].has(ACTOR)
    again = await world.nodes["b"].deploy(request_id="r1")
    assert again.id == first.id
    a.has(ACTOR, "other")
    with pytest.raises(AlreadyExists, match="'r1' has deployed application 'app'"):
        await a.deploy("other", request_id="r1")


async def test_deploy_when_init_fails_then_the_error_comes_and_nothing_is_left(
    world: World, a: NodeOf
) -> None:
    """The actor's own, as on a single node."""
    for node in world.nodes.values():
        node.local.failing["0.1.0"] = ActorFailed("no config", code="bad", hint="give it one")
    with pytest.raises(ActorFailed, match="no config") as raised:
        await a.deploy()
    assert (raised.value.code, raised.value.hint) == ("bad", "give it one")
    assert a.view.application("app") is None
    await eventually(lambda: not world.nodes["b"].view.statuses("app"))
    assert not any(node.local.runs for node in world.nodes.values())
    await eventually(lambda: a.view.placed("app") is None)


async def test_deploy_when_cancelled_in_the_middle_then_nothing_is_left(
    world: World, a: NodeOf
) -> None:
    """While a node starts it."""
    for node in world.nodes.values():
        node.local.gate.clear()
    deploying = a.deploy()
    await eventually(lambda: any(node.local.log for node in world.nodes.values()))
    deploying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    assert a.view.application("app") is None
    assert not any(node.local.runs for node in world.nodes.values())
    assert not a.view.statuses("app")
    for node in world.nodes.values():
        node.local.gate.set()
    assert (await a.deploy()).state is ApplicationState.RUNNING


async def test_deploy_when_its_node_dies_in_the_middle_then_another_takes_it(
    world: World, a: NodeOf
) -> None:
    """The client does not notice."""
    for node in world.nodes.values():
        node.local.gate.clear()
    # Its client would be gone with the node that was asked.
    for name in ("b", "c"):
        world.publish(name, labels={"disk": "ssd"})
    deploying = a.deploy(on={"disk": "ssd"})
    await eventually(lambda: any(node.local.log for node in world.nodes.values()))
    (first,) = [node for node in world.nodes.values() if node.local.log]
    await world.stop_node(first.id)
    world.declare_dead(first.id)
    for node in world.nodes.values():
        node.local.gate.set()
    info = await deploying
    assert info.state is ApplicationState.RUNNING
    assert info.node == {"b": "c", "c": "b"}[first.id]


async def test_deploy_when_no_node_has_room_then_it_says_why(world: World, a: NodeOf) -> None:
    """And nothing stays in the registry."""
    with pytest.raises(ResourceExhausted, match="no other node has room for 2048 MiB"):
        await a.deploy(vm_config=VmConfig(1, 2048))
    assert a.view.application("app") is None
    with pytest.raises(ResourceExhausted, match="no node that is up has the label disk=ssd"):
        await a.deploy(on={"disk": "ssd"})


async def test_deploy_when_labels_are_asked_for_then_it_runs_there(world: World, a: NodeOf) -> None:
    """Only."""
    world.publish("c", labels={"disk": "ssd"})
    info = await a.deploy(on={"disk": "ssd"})
    assert runs_on(world) == ["c"]
    assert info.on == {"disk": "ssd"}


async def test_deploy_when_of_an_actor_then_replicas_are_refused(world: World, a: NodeOf) -> None:
    """Before anything is written; the kind is named."""
    before = world.bucket.revision
    with pytest.raises(InvalidArgument, match="'app' is an actor, of which there is one, not 2"):
        await a.deploy(replicas=2)
    assert world.bucket.revision == before


async def test_deploy_when_replicas_are_asked_for_then_each_is_on_its_own_node(
    world: World, a: NodeOf
) -> None:
    """What has no state; more than there are nodes is refused."""
    a.has(COMMAND)
    info = await a.deploy(replicas=3)
    assert runs_on(world) == ["a", "b", "c"]
    assert (info.replicas, len(info.nodes)) == (3, 3)
    await a.operations.undeploy("app")
    with pytest.raises(ResourceExhausted, match="4 replicas need as many nodes"):
        await a.deploy(replicas=4)


async def test_deploy_when_into_an_empty_vm_then_it_is_refused(a: NodeOf) -> None:
    """The cluster chooses the node."""
    request = DeployRequest(spec=ApplicationSpec("app", DIGEST), vm_id="vm-1")
    with pytest.raises(WrongState, match="the cluster chooses its node"):
        await a.operations.deploy(request, lambda _: None)


async def test_deploy_when_over_a_quota_of_the_cluster_then_it_is_refused(
    world: World, a: NodeOf
) -> None:
    """What other nodes run counts."""
    a.quotas.change(Subject("default"), {Key.MEMORY_MIB: 128})
    a.has(COMMAND)
    await a.deploy(replicas=2)
    a.has(ACTOR, "other")
    with pytest.raises(ResourceExhausted, match="memory_mib"):
        await a.deploy("other")
    assert a.view.application("other") is None


async def test_replace_when_replicated_then_one_after_the_other(world: World, a: NodeOf) -> None:
    """Never all are down; every one has the new version in the end."""
    a.has(COMMAND)
    await a.deploy(replicas=3)
    world.least["app"] = 3
    info = await a.deploy(version="2", replace=True)
    assert info.version == "2"
    assert world.least["app"] == 2
    assert {node.local.runs["app"].record.version for node in world.nodes.values()} == {"2"}
    assert info.replicas == 3


async def test_replace_when_the_new_version_fails_then_the_old_one_is_back_everywhere(
    world: World, a: NodeOf
) -> None:
    """Also on nodes that had the new one already."""
    a.has(COMMAND)
    await a.deploy(replicas=3)
    placed = a.view.placed("app")
    assert placed is not None
    last = world.nodes[placed[0].nodes[-1]]
    last.local.failing["2"] = ActorFailed("no", code="bad")
    with pytest.raises(ActorFailed, match="no"):
        await a.deploy(version="2", replace=True)
    versions = {node.local.runs["app"].record.version for node in world.nodes.values()}
    assert versions == {"0.1.0"}
    assert runs_on(world) == ["a", "b", "c"]
    application = a.view.application("app")
    assert application is not None
    assert (application.version, application.deploying) == ("0.1.0", "")


async def test_stop_and_start_when_asked_at_another_node_then_the_owner_does_it(
    world: World, a: NodeOf
) -> None:
    """And both can be repeated."""
    await a.deploy()
    b = world.nodes["b"]
    assert (await b.operations.stop("app")).state is ApplicationState.STOPPED
    assert runs_on(world) == []
    assert (await a.operations.stop("app")).state is ApplicationState.STOPPED
    assert (await a.operations.start("app")).state is ApplicationState.RUNNING
    assert len(runs_on(world)) == 1
    assert (await b.operations.start("app")).state is ApplicationState.RUNNING


async def test_stop_when_the_state_cannot_be_saved_then_it_runs_on(world: World, a: NodeOf) -> None:
    """With the reason; with force it is stopped."""
    await a.deploy()
    for node in world.nodes.values():
        node.local.unsaved = WrongState("the disk is full", hint="df -h")
    with pytest.raises(WrongState, match="the disk is full"):
        await a.operations.stop("app")
    assert len(runs_on(world)) == 1
    await eventually(lambda: a.view.application("app").wanted == "running")  # type: ignore[union-attr]
    assert (await a.operations.stop("app", force=True)).state is ApplicationState.STOPPED


async def test_start_when_it_fails_then_the_error_comes(world: World, a: NodeOf) -> None:
    """And it is Failed; a start after the cause is gone starts it."""
    await a.deploy()
    await a.operations.stop("app")
    for node in world.nodes.values():
        node.local.failing["0.1.0"] = ActorFailed("no", code="bad")
    with pytest.raises(ActorFailed, match="no"):
        await a.operations.start("app")
    for node in world.nodes.values():
        node.local.failing.clear()
    assert (await a.operations.start("app")).state is ApplicationState.RUNNING


async def test_undeploy_when_done_then_nothing_is_left_on_any_node(world: World, a: NodeOf) -> None:
    """Neither what runs, nor its state, nor a status."""
    info = await a.deploy()
    await world.nodes["c"].operations.undeploy("app")
    assert runs_on(world) == []
    assert not any(node.local.runs for node in world.nodes.values())
    assert info.id in world.forgotten
    await eventually(lambda: a.view.placed("app") is None and not a.view.statuses("app"))
    with pytest.raises(NotFound):
        await a.operations.undeploy("app")


async def test_actor_when_its_node_dies_then_the_standby_takes_its_state(
    world: World, a: NodeOf
) -> None:
    """Under a newer epoch; the old one comes back and has nothing."""
    info = await a.deploy()
    owner = info.node
    world.declare_dead(owner)
    await eventually(lambda: runs_on(world) and owner not in runs_on(world))
    (first, before), (second, after) = world.taken[info.id]
    assert (first, runs_on(world)) == (owner, [second])
    assert after > before


async def test_actor_when_its_node_drains_then_it_is_handed_over(world: World, a: NodeOf) -> None:
    """It is saved and ended before the next one takes it."""
    info = await a.deploy()
    world.publish(info.node, state=NodeState.DRAINING)
    await eventually(lambda: runs_on(world) and runs_on(world) != [info.node])
    assert "remove app and save" in world.nodes[info.node].local.log
    assert world.both == []


async def test_replica_when_its_node_drains_then_another_serves_before_it_stops(
    world: World, a: NodeOf
) -> None:
    """No moment without."""
    a.has(COMMAND)
    info = await a.deploy()
    world.least["app"] = 1
    world.publish(info.node, state=NodeState.DRAINING)
    await eventually(lambda: runs_on(world) and info.node not in runs_on(world))
    assert world.least["app"] == 1


async def test_actor_when_the_lease_is_taken_then_it_is_ended_and_taken_again(
    world: World, a: NodeOf
) -> None:
    """At once; it is served again when the lease is back."""
    info = await a.deploy()
    owner = world.nodes[info.node]
    owner.lease.end()
    await eventually(lambda: "halt app" in owner.local.log)
    assert runs_on(world) == []
    owner.lease.renew(1e9)
    await eventually(lambda: runs_on(world) == [info.node])
    assert len(world.taken[info.id]) == 2


async def test_node_when_an_actor_ends_slowly_then_the_lease_is_not_back_before(
    world: World, a: NodeOf
) -> None:
    """It would answer until then, though another node may have it by now."""
    info = await a.deploy()
    owner = world.nodes[info.node]
    await owner.reconciler.lease_lost()
    owner.local.ends.clear()
    owner.lease.end()
    lost = asyncio.create_task(owner.reconciler.lease_lost())
    await asyncio.sleep(30)
    assert not lost.done()
    owner.local.ends.set()
    await lost
    assert runs_on(world) == []


async def test_node_when_it_comes_back_then_it_removes_what_is_not_its_own_any_more(
    world: World, a: NodeOf
) -> None:
    """And says that it is gone, until somebody else serves it."""
    info = await a.deploy()
    owner = world.nodes[info.node]
    await world.stop_node(info.node)
    world.declare_dead(info.node)
    others = [node for node in world.nodes.values() if node is not owner]
    await eventually(lambda: any(node.local.runs for node in others))
    back = world.add(info.node)
    back.local.runs = owner.local.runs
    await eventually(lambda: not back.local.runs)
    await eventually(lambda: info.node not in a.view.statuses("app"))


async def test_list_when_a_node_is_silent_then_the_registry_tells(world: World, a: NodeOf) -> None:
    """And the node is named."""
    a.has(COMMAND)
    await a.deploy(on={})
    (node,) = runs_on(world)
    asked = next(one for one in world.nodes.values() if one.id != node)
    listing = await asked.operations.list()
    assert [(each.name, each.node) for each in listing.applications] == [("app", node)]
    assert (listing.silent_nodes, listing.cluster) == ((), "test")
    world.silent.add(node)
    listing = await asked.operations.list()
    assert listing.silent_nodes == (node,)
    assert [(each.name, each.state) for each in listing.applications] == [
        ("app", ApplicationState.RUNNING)
    ]


async def test_inspect_when_its_node_is_gone_then_the_registry_tells(
    world: World, a: NodeOf
) -> None:
    """The node that is asked has not the application either."""
    a.has(COMMAND)
    await a.deploy(on={})
    (node,) = runs_on(world)
    asked = next(one for one in world.nodes.values() if one.id != node)
    info = await asked.operations.inspect("app")
    assert (info.name, info.node, info.state) == ("app", node, ApplicationState.RUNNING)
    with pytest.raises(NotFound):
        await asked.operations.inspect("other")


async def test_recover_when_a_deploy_was_not_done_then_it_is_undone(
    world: World, a: NodeOf
) -> None:
    """After the node was killed in the middle of it."""
    for node in world.nodes.values():
        node.local.gate.clear()
    deploying = a.deploy()
    await eventually(lambda: any(node.local.log for node in world.nodes.values()))
    # As a kill leaves it: nothing is undone.
    a.bucket.is_cut = True
    deploying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    for task in tuple(a.operations._deployer._undoing):
        task.cancel()
    a.bucket.is_cut = False
    await eventually(lambda: a.view.application("app") is not None)
    await a.operations.recover()
    assert a.view.application("app") is None
    for node in world.nodes.values():
        node.local.gate.set()
    await eventually(lambda: not any(node.local.runs for node in world.nodes.values()))


async def test_deploy_when_the_registry_is_away_then_unavailable(a: NodeOf) -> None:
    """And later nothing of it is there."""
    a.bucket.is_cut = True
    with pytest.raises(Unavailable):
        await a.deploy()


async def test_actor_when_it_cannot_be_fetched_then_it_is_tried_again_with_waits(
    world: World, a: NodeOf
) -> None:
    """Not at once, and again when whoever has it is back."""
    info = await a.deploy()
    owner = world.nodes[info.node]
    ready = next(each.node for each in info.nodes if each.state == "Ready")
    standby = world.nodes[ready].local
    standby.failing["0.1.0"] = Unavailable("no memory just now")
    world.declare_dead(owner.id)
    await asyncio.sleep(20)
    starts = standby.log.count("start app 0.1.0")
    assert 3 < starts < 10
    standby.failing.clear()
    await eventually(lambda: runs_on(world) == [ready])
