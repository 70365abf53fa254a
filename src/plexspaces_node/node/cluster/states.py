"""The states of actors, as `acting` and `operations` use them: see `parts.States`."""

from __future__ import annotations

from plexspaces_node.node.cluster import state_removal
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.nats.bucket import Bucket


class ActorStates:
    """Taking over actors' states, giving them up, and removing them."""

    def __init__(self, node: str, store: ReplicatedStore, bucket: Bucket) -> None:
        """Use the bucket of the states through `store`, and itself for what nobody owns."""
        self._node = node
        self._bucket = bucket
        self.take, self.leave = store.take, store.leave

    def __repr__(self) -> str:
        return f"<ActorStates of {self._node}>"

    async def forget(self, name: str, id_: str) -> None:
        """Remove the state of an actor that was undeployed; raises `Unavailable`."""
        await state_removal.forget(self._bucket, name, id_)
