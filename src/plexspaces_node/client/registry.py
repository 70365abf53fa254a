"""`VmRegistry`: the VMs of a node, and which application runs in which."""

from __future__ import annotations

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.client.node import NodeClient
from plexspaces_node.errors import NotFound, no_application
from plexspaces_node.info import Listing, VmInfo


class VmRegistry:
    """Finds VMs over the node's API; nothing is cached.

    Given an address, it connects for each call; given an open client, it uses that.
    """

    def __init__(self, node: NodeClient | str = DEFAULT_ADDRESS) -> None:
        self._node = node

    def __repr__(self) -> str:
        return f"<VmRegistry {getattr(self._node, 'address', self._node)}>"

    async def discover(self) -> list[VmInfo]:
        """Return every VM of the node, empty ones last."""
        listing = await self._listing()
        return list(listing.vms)

    async def find(self, application: str) -> VmInfo:
        """Return the VM that an application runs in.

        Raises `NotFound` if the application does not exist or has no VM at the moment.
        """
        listing = await self._listing()
        for each in listing.applications:
            if each.name != application:
                continue
            if each.vm is None:
                raise NotFound(
                    f"application {application!r} is {each.state} and has no VM",
                    hint=f"plexspaces start --name {application}",
                )
            return each.vm
        raise no_application(application)

    async def _listing(self) -> Listing:
        if isinstance(self._node, NodeClient):
            return await self._node.list()
        async with NodeClient(self._node) as client:
            return await client.list()
