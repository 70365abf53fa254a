"""The gRPC channels to other nodes: one each, made when it is needed first."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from plexspaces_node.api.options import client_options
from plexspaces_node.errors import Unavailable
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.cluster.routes import View


class PeerChannels:
    """The channels of this node to the others. Used on one event loop."""

    def __init__(self, view: View, tls: PeerTls) -> None:
        """Connect to nobody yet."""
        self._view = view
        self._credentials = tls.channel_credentials()
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._unfollow = view.on_change(self._changed)

    def __repr__(self) -> str:
        return f"<PeerChannels to {sorted(self._channels)}>"

    def channel(self, node: str) -> grpc.aio.Channel:
        """Return the channel to a node; raises `Unavailable` for one that is not known."""
        found = self._view.node(node)
        if found is None or not found[0].grpc:
            raise Unavailable(f"it is not known where node {node!r} is", hint="plexspaces nodes")
        address, known = found[0].grpc, self._channels.get(node)
        if known is not None and known[0] == address:
            return known[1]
        self._drop(node)
        # It must be that node, and not only one of the cluster.
        options = (*client_options(), ("grpc.ssl_target_name_override", node))
        channel = grpc.aio.secure_channel(address, self._credentials, options=options)
        self._channels[node] = address, channel
        return channel

    async def aclose(self) -> None:
        """Close every channel; calls end. Idempotent."""
        self._unfollow()
        for node in tuple(self._channels):
            self._drop(node)
        while self._closing:
            await asyncio.wait(self._closing)

    def _changed(self, kind: Any, subject: str) -> None:
        if kind in ("node", "beat") and not self._view.is_alive(subject):
            self._drop(subject)

    def _drop(self, node: str) -> None:
        known = self._channels.pop(node, None)
        if known is not None:
            task = asyncio.get_running_loop().create_task(known[1].close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
