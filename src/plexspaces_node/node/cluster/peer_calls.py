"""What this node asks the others about what they run, by gRPC: see `parts.Peers`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import grpc

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceStub
from plexspaces_node.api.status import from_grpc
from plexspaces_node.errors import Internal, PlexSpacesError
from plexspaces_node.info import ApplicationInfo, Listing
from plexspaces_node.node.access.identity import LOCAL, Identity
from plexspaces_node.node.applications.roster import Viewer
from plexspaces_node.node.cluster.caller import CALLER, HOP, caller_text
from plexspaces_node.node.cluster.channels import PeerChannels

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceAsyncStub

ASK_S = 2.0
"""How long another node has to answer."""

_T = TypeVar("_T")


class PeerCalls:
    """Asks other nodes. Used on one event loop."""

    def __init__(self, channels: PeerChannels) -> None:
        self._channels = channels

    def __repr__(self) -> str:
        return f"<PeerCalls by {self._channels!r}>"

    async def inspect(self, node: str, name: str) -> ApplicationInfo:
        """Describe an application as it is on a node; raises `NotFound` and `Unavailable`."""
        call = self._stub(node).Inspect(
            pb.InspectRequest(name=name), metadata=_metadata(None), timeout=ASK_S
        )
        return convert.application_from_proto((await _answer(node, call)).application)

    async def list(self, node: str, viewer: Viewer | None, tenant: str) -> Listing:
        """Return what a viewer may see of what a node runs; raises `Unavailable`."""
        call = self._stub(node).List(
            pb.ListRequest(tenant=tenant), metadata=_metadata(viewer), timeout=ASK_S
        )
        return convert.listing_from_proto(await _answer(node, call))

    def _stub(self, node: str) -> ApplicationServiceAsyncStub:
        return ApplicationServiceStub(self._channels.channel(node))


def _metadata(viewer: Viewer | None) -> tuple[tuple[str, str], ...]:
    # This node sees everything when it asks for itself.
    identity = viewer if isinstance(viewer, Identity) else LOCAL
    return ((HOP, "1"), (CALLER, caller_text(identity).decode("ascii")))


async def _answer(node: str, call: Awaitable[_T]) -> _T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        found = from_grpc(error, address=f"node {node!r}")
        if isinstance(found, PlexSpacesError):
            raise found from error
        raise Internal(f"node {node!r} answers what is no answer: {found}") from error
