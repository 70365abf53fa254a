"""Which node serves an application, and waiting for one that does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from support.cluster_view import FakeView, application

from plexspaces_node.errors import NotFound, PlexSpacesError, Unavailable, WrongState
from plexspaces_node.node.applications.intake import HOLD_S
from plexspaces_node.node.cluster.routes import Routes
from plexspaces_node.tasks import called_back

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def view() -> FakeView:
    """A cluster of three nodes."""
    view = FakeView()
    for node in "abc":
        view.add_node(node)
    return view


@pytest.fixture
async def routes(view: FakeView) -> AsyncIterator[Routes]:
    """The ways of the node a."""
    routes = Routes("a", view)
    yield routes
    routes.close()
    assert (view.listeners, routes._waiting) == ([], {})


async def found(routes: Routes, name: str, *besides: str) -> str | PlexSpacesError:
    return await called_back(partial(routes.when_found, name, besides=besides))


async def test_find_when_own_node_serves_then_it_is_first(view: FakeView, routes: Routes) -> None:
    """Whatever others have."""
    view.place("x", "c", "a", "b")
    assert {routes.find("x") for _ in range(9)} == {"a"}


async def test_find_when_others_serve_then_the_least_busy_in_turn(
    view: FakeView, routes: Routes
) -> None:
    """With as many messages each, one after the other."""
    view.place("x", "b", "c")
    assert {routes.find("x") for _ in range(9)} == {"b", "c"}
    routes.took("b")
    assert {routes.find("x") for _ in range(9)} == {"c"}
    routes.took("c")
    routes.gave("b")
    assert {routes.find("x") for _ in range(9)} == {"b"}
    routes.gave("c")
    assert routes.find("x", {"b"}) == "c"


@pytest.mark.parametrize("state", ["Ready", "Gone", ""])
async def test_find_when_a_node_does_not_serve_then_none(
    view: FakeView, routes: Routes, state: str
) -> None:
    """Only what a node says that it runs is sent there."""
    view.place("x", "b")
    view.set_state("x", "b", state)
    assert routes.find("x") is None


async def test_find_when_one_runs_and_one_starts_then_the_one_that_runs(
    view: FakeView, routes: Routes
) -> None:
    """One that starts lets messages wait, which is better than nobody."""
    view.place("x", "b", "c")
    view.set_state("x", "b", "Starting")
    assert {routes.find("x") for _ in range(9)} == {"c"}
    view.kill("c")
    assert routes.find("x") == "b"


async def test_wait_when_the_application_moves_then_it_is_found(
    view: FakeView, routes: Routes
) -> None:
    """At the change, not by looking now and then."""
    view.place("x", "b")
    view.kill("b")
    waiting = asyncio.ensure_future(found(routes, "x"))
    await asyncio.sleep(HOLD_S / 2)
    assert not waiting.done()
    view.place("x", "c")
    before_s = asyncio.get_running_loop().time()
    assert await waiting == "c"
    assert asyncio.get_running_loop().time() == before_s


async def test_wait_when_nobody_serves_in_time_then_unavailable(
    view: FakeView, routes: Routes
) -> None:
    """After as long as a message waits for an application of its own node."""
    view.place("x", "b")
    view.kill("b")
    begin_s = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as failed:
        await found(routes, "x")
    assert failed.value.hint == "plexspaces nodes"
    assert asyncio.get_running_loop().time() - begin_s == pytest.approx(HOLD_S)


async def test_wait_when_there_is_nothing_to_wait_for_then_the_error_of_a_single_node(
    view: FakeView, routes: Routes
) -> None:
    """At once: nobody of that name, one that is being deployed for the first time, one stopped."""
    view.all["new"] = application("new", deploying="b")
    for name in ("nobody", "new"):
        assert not routes.knows(name)
        with pytest.raises(NotFound, match=f"there is no application '{name}'"):
            await found(routes, name)
    view.place("x", "b")
    view.stop("x")
    with pytest.raises(WrongState) as failed:
        await found(routes, "x")
    assert failed.value.hint == "plexspaces start --name x"


async def test_wait_when_the_registry_was_not_read_since_the_start_then_not_known_to_be_nobody(
    view: FakeView, routes: Routes
) -> None:
    """What was deployed just before every node ended may not be remembered; it may be told."""
    view.synced.clear()
    view.all["new"] = application("new", deploying="b")
    for name in ("nobody", "new"):
        assert routes.may_have(name)
        with pytest.raises(Unavailable, match="does not know yet") as failed:
            await found(routes, name)
        assert failed.value.retryable
    waiting = asyncio.ensure_future(found(routes, "x"))
    await asyncio.sleep(1)
    view.place("x", "b")
    assert await waiting == "b"
    view.synced.set()
    assert not routes.may_have("nobody")
    with pytest.raises(NotFound):
        await found(routes, "nobody")


async def test_wait_when_a_node_has_it_not_then_it_is_asked_again_later(
    view: FakeView, routes: Routes
) -> None:
    """It may have just begun; a change is not told twice."""
    view.place("x", "b")
    begin_s = asyncio.get_running_loop().time()
    assert await found(routes, "x", "b") == "b"
    assert 0 < asyncio.get_running_loop().time() - begin_s < HOLD_S


async def test_wait_when_somebody_leaves_then_nothing_is_called(
    view: FakeView, routes: Routes
) -> None:
    """Nor kept."""
    view.place("x", "b")
    came: list[object] = []
    routes.when_found("x", came.append)()
    await asyncio.sleep(HOLD_S)
    assert came == []


async def test_wait_when_routes_close_then_it_fails(view: FakeView, routes: Routes) -> None:
    """The node shuts down."""
    view.place("x", "b")
    view.kill("b")
    waiting = asyncio.ensure_future(found(routes, "x"))
    await asyncio.sleep(0)
    routes.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_has_left_when_it_is_placed_elsewhere(view: FakeView, routes: Routes) -> None:
    """What a node leaves is its own until it has left."""
    view.place("x", "b")
    assert routes.has_left("x")
    view.place("x", "a")
    assert not routes.has_left("x")
    assert not routes.has_left("nobody")


async def test_node_of_vm_when_a_node_runs_it(view: FakeView, routes: Routes) -> None:
    """By what nodes say of their VMs."""
    view.place("x", "b")
    view.set_state("x", "b", "Running", vm_id="vm-1")
    assert routes.node_of_vm("vm-1") == ("x", "b")
    assert routes.node_of_vm("vm-2") is None
