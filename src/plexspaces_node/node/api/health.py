"""A node's health: in gRPC's protocol, in its log and as a metric.

A node serves until it shuts down or finds damage in its registry. Then it still answers what is not
damaged: whether to stop the node is the operator's decision.
"""

from __future__ import annotations

import asyncio
import logging

from grpc_health.v1 import health, health_pb2

from plexspaces_node.api.invoke import SERVICE
from plexspaces_node.node.registry.sqlite_errors import Damaged

_log = logging.getLogger(__name__)

_REMEMBERED = 16


class NodeHealth:
    """The health of one node. Used only on the event loop.

    Attributes:
        servicer: for the server.
        damages: how often the registry was found damaged.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self.damages = 0
        self._logged: set[str] = set()
        self._telling: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<NodeHealth {self.damages} damages>"

    async def serve(self) -> None:
        """Report that the node serves, unless damage was found before."""
        if not self.damages:
            await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def shut_down(self) -> None:
        """Report that the node no longer serves."""
        await self.servicer.enter_graceful_shutdown()

    def damage(self, error: Damaged) -> None:
        """Record that the registry is damaged: an error in the log, once for each damage."""
        self.damages += 1
        if error.message not in self._logged and len(self._logged) < _REMEMBERED:
            self._logged.add(error.message)
            _log.error("%s; hint: %s", error.message, error.hint)
        if self.damages == 1:
            say = self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
            telling = asyncio.get_running_loop().create_task(say)
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _say(self, status: int) -> None:
        for name in ("", SERVICE):
            await self.servicer.set(name, status)
