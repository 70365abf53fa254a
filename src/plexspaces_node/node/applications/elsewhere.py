"""Applications that run on other nodes, as those of this node see them.

A single node has none. In a cluster, what is not here is asked there: one hop, never two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from plexspaces_node.link.frames import Body
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.applications.outcome import Cause, Done
from plexspaces_node.tasks import Leave


@dataclass(frozen=True, slots=True)
class Message:
    """A message to an application of another node.

    Attributes:
        name: the application's full name.
        caller: who sends it; None for an actor, which `sender` names.
        sender: the full name of the actor that sends it, "" for a client.
        waiting: the actors that wait for its reply, by full names, the sender first.
        is_told: whether nobody waits for the reply: it is done once the message is accepted.
    """

    name: str
    type: str
    payload: Body
    timeout_ns: int
    caller: Identity | None = None
    sender: str = ""
    waiting: tuple[str, ...] = ()
    is_told: bool = False
    cause: Cause = None


class Elsewhere(Protocol):
    """The other nodes of a cluster. Used on the event loop; nothing here blocks it."""

    def knows(self, name: str) -> bool:
        """Return whether the cluster has an application of this full name, or may have it."""

    def has_left(self, name: str) -> bool:
        """Return whether an application that this node has is to be served by others alone."""

    def is_public(self, name: str) -> bool:
        """Return whether everybody may send messages to it; False for one that is unknown."""

    def is_component(self, name: str) -> bool:
        """Return whether it handles HTTP requests itself; False for one that is unknown."""

    def post(self, message: Message, done: Done) -> Leave:
        """Send a message to a node that serves its application, once there is one.

        `done` is called with the outcome, as by the node itself. Never before this returns, nor
        after the returned function was called.
        """
