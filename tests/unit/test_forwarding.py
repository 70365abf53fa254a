"""Where calls about an application of the cluster are passed on to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.cluster_view import FakeView

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.api.forwarding import WAIT_S, Forwarding
from plexspaces_node.node.cluster.routes import Routes

pytestmark = pytest.mark.virtual_time


async def asked(view: FakeView, rpc: str) -> list[str]:
    """Return the nodes that the node a asks about an application, of which each has it not."""
    routes = Routes("a", view)
    messages = SimpleNamespace(is_elsewhere=lambda _name: True)
    applications: Any = SimpleNamespace(messages=messages)
    forwarding = Forwarding(applications, routes, SimpleNamespace())  # type: ignore[arg-type]
    call: Any = SimpleNamespace(name="app")
    try:
        return [node async for node in forwarding.nodes_of(rpc, call)]
    finally:
        routes.close()


async def test_inspect_when_no_node_serves_it_then_this_one_answers_at_once() -> None:
    """By the registry; also after a node was asked that has it not any more."""
    loop = asyncio.get_running_loop()
    view, begin_s = FakeView(), loop.time()
    for node in "abc":
        view.add_node(node)
    view.place("app", "b", state="Ready")
    assert await asked(view, "Inspect") == [""]
    view.place("app", "b")
    assert await asked(view, "Inspect") == ["b", ""]
    assert loop.time() == begin_s


async def test_logs_when_no_node_serves_it_then_waited_for() -> None:
    """They are nowhere else."""
    loop = asyncio.get_running_loop()
    view, begin_s = FakeView(), loop.time()
    view.add_node("b")
    view.place("app", "b", state="Ready")
    with pytest.raises(Unavailable):
        await asked(view, "Logs")
    assert loop.time() - begin_s >= WAIT_S
