"""How a cluster of one server begins: a companion is taken out of it, whoever of both leads."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.nats.connection import Message
from plexspaces_node.node.nats.founding import take_out

DONE: dict[str, Any] = {"success": True}
UNKNOWN = {"error": {"code": 400, "err_code": 10044, "description": "server is not a member"}}
ALONE = {"data": {"meta_cluster": {"leader": "a", "cluster_size": 1}}}
TOGETHER = {"data": {"meta_cluster": {"leader": "a", "cluster_size": 2, "replicas": [{}]}}}


class Servers:
    """A connection on which removals and looks have these answers, one after the other.

    None is no answer.
    """

    def __init__(self, removals: list[dict[str, Any] | None], looks: list[dict[str, Any]]) -> None:
        self.removals, self.looks = removals, looks

    async def session(self) -> None:
        return None

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Message:
        found = self.removals.pop(0) if subject.endswith("SERVER.REMOVE") else self.looks.pop(0)
        if found is None:
            raise Unavailable("NATS has not answered within 1 s")
        return Message("", "", json.dumps(found).encode(), {})


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("removals", "looks"),
    [
        pytest.param([None, DONE], [], id="once there is a leader"),
        pytest.param([UNKNOWN, DONE], [TOGETHER], id="once it is known"),
        pytest.param([None, UNKNOWN], [ALONE], id="it led, and removed itself without a word"),
        pytest.param(
            [None, UNKNOWN, UNKNOWN], [TOGETHER, ALONE], id="and the other learns it late"
        ),
    ],
)
async def test_companion_when_taken_out_then_it_is_known_though_no_answer_came(
    removals: list[dict[str, Any] | None], looks: list[dict[str, Any]]
) -> None:
    """A leader that removes itself does not always say so; then it is no member any more."""
    servers = Servers(removals, looks)
    await take_out(cast(Any, servers), "a.companion", leaving="a")
    assert (servers.removals, servers.looks) == ([], [])
