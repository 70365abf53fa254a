"""What a node says of its health."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from plexspaces_node.api.invoke import SERVICE
from plexspaces_node.node.api.health import NodeHealth
from plexspaces_node.node.registry.sqlite_errors import Damaged

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_when_damage_is_met_then_it_ends_and_the_log_says_once_what_helps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever watches is told; the same damage again is counted and not logged."""
    node_health, server = NodeHealth(), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(node_health.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch_health = health_pb2_grpc.HealthStub(channel).Watch  # type: ignore[attr-defined]
            await node_health.serve()
            watched = [
                watch_health(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE)
            ]
            assert [(await watch.read()).status for watch in watched] == [SERVING] * 2
            with caplog.at_level(logging.ERROR):
                for message in ("page 3", "page 3", "page 4"):
                    node_health.damage(Damaged(message, hint="restore"))
            assert [(await watch.read()).status for watch in watched] == [NOT_SERVING] * 2
            for watch in watched:
                watch.cancel()
        assert caplog.messages == ["page 3; hint: restore", "page 4; hint: restore"]
        assert node_health.damages == 3
        await node_health.serve()
    finally:
        await server.stop(0)


async def test_health_when_much_is_damaged_then_the_log_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A damaged disk does not fill the log."""
    node_health = NodeHealth()
    with caplog.at_level(logging.ERROR):
        for number in range(1000):
            node_health.damage(Damaged(f"page {number}", hint="restore"))
    assert len(caplog.messages) == 16
    await asyncio.sleep(0)
