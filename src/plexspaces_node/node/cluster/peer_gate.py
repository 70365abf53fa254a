"""Who may do what that another node passes on: decided as for clients, of whom that node says."""

from __future__ import annotations

from collections.abc import Callable, Collection

from plexspaces_node.node.access.gate import Gate, NoGrants
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.access.policy import Target
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.cluster.caller import NotHere


class NodeGrants(NoGrants):
    """The grants of other nodes' callers: whoever passes a call on ends it when theirs do."""

    def exist(self) -> bool:
        return True

    def is_current(self, identity: Identity) -> bool:
        del identity
        return True


class PeerGate(Gate):
    """The gate that calls of other nodes pass. Used on the event loop."""

    def __init__(
        self, recorder: Recorder, *, is_here: Callable[[str], bool], verbs: Collection[str]
    ) -> None:
        """Refuse calls of these `verbs` about an application that is not here, by `is_here`."""
        super().__init__(NodeGrants(), recorder)
        self._is_here = is_here
        self._verbs = frozenset(verbs)

    def check(self, verb: str, identity: Identity, target: Target) -> bool:
        """Do what `Gate.check` does; also raises `NotHere`."""
        is_own = super().check(verb, identity, target)
        if verb in self._verbs and not self._is_here(target.application):
            raise NotHere(target.application)
        return is_own
