"""What a node asks a cluster before it joins, of servers with real TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from support.fake_cluster import FakeCluster

from plexspaces_node.api.generated.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.cluster.preflight import GRPC_PORT, check_id_is_free

OURS = ClusterToken(b"\7" * 32, "shop")


def tls_of(token: ClusterToken, node: str) -> PeerTls:
    """The certificate of a node."""
    return PeerTls(token.authority("shop"), node, ["127.0.0.1"])


@asynccontextmanager
async def serving(*, admits: bool = True) -> AsyncIterator[str]:
    """Run a node `a` that knows itself and `b`; yield the address that others join by."""

    def enter(name: str, context: grpc.ServicerContext) -> None:
        if not admits:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no node of this cluster")

    server = grpc.aio.server()
    add_ClusterServiceServicer_to_server(FakeCluster(enter), server)
    port = server.add_secure_port("127.0.0.1:0", tls_of(OURS, "a").server_credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port - GRPC_PORT}"
    finally:
        await server.stop(None)


class TestId:
    @pytest.mark.parametrize("node", ["a", "b"])
    async def test_join_when_a_node_of_this_id_is_up_then_refused(self, node: str) -> None:
        """Also one that is draining; the error says where it is, and what to choose."""
        async with serving() as address:
            with pytest.raises(WrongState, match=f"{node!r} is up") as refused:
                await check_id_is_free(node, (address,), tls_of(OURS, node))
        assert "--node-id" in (refused.value.hint or "")

    async def test_join_when_the_id_is_free_then_let_on(self) -> None:
        """By a node that lists others, and by one that does not admit whom it does not know."""
        for admits in (True, False):
            async with serving(admits=admits) as address:
                await check_id_is_free("c", (address,), tls_of(OURS, "c"))

    async def test_join_when_nobody_answers_then_the_next_address_is_asked(self) -> None:
        """One that is away says nothing of the id."""
        async with serving() as address:
            with pytest.raises(WrongState):
                await check_id_is_free("a", ("127.0.0.1:1", address), tls_of(OURS, "a"))
        await check_id_is_free("a", ("127.0.0.1:1",), tls_of(OURS, "a"))


class TestToken:
    async def test_join_when_the_token_is_of_another_cluster_then_refused(self) -> None:
        """Though it has the same name."""
        other = tls_of(ClusterToken(b"\x08" * 32, "shop"), "c")
        async with serving() as address:
            with pytest.raises(InvalidArgument, match="another cluster") as refused:
                await check_id_is_free("c", (address,), other)
        assert "plexspaces nodes token" in (refused.value.hint or "")
