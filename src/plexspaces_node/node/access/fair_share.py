"""How much of something that all tenants share one of them may hold: no more than is free.

So one tenant alone gets half, two that want everything a third each, and whoever comes next always
finds some. What has no owner yet, or is of somebody unknown, counts as one tenant more.
"""

from __future__ import annotations

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.access.identity import ALL, NOBODY, Identity

UNKNOWN = ""
"""Whose calls are counted of those who have not said who they are."""


class FairShare:
    """Counts what tenants hold. Used only on the event loop."""

    def __init__(self, most: int, *, what: str, hint: str) -> None:
        """Share out `most` of something; `what` and `hint` are for the error."""
        self._most = most
        self._what = what
        self._hint = hint
        # Of tenants that have had some, 0 too: it is asked for each message.
        self._held: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<FairShare of {self._most}: {dict(self._held)}>"

    def check(self, tenant: str, in_use: int) -> None:
        """Raise `ResourceExhausted` unless a tenant may hold one more.

        All together hold `in_use`. `ALL` may: whoever looks after the node must reach it.
        """
        held = self._held.get(tenant)
        if held and held >= self._most - in_use and tenant != ALL:
            whose = f"tenant {tenant!r}" if tenant else "whoever brings no token"
            raise ResourceExhausted(
                f"too many {self._what} at once for {whose}: the rest is for others",
                hint=self._hint,
            )

    def take(self, tenant: str) -> None:
        """Count one more until `give` is called."""
        self._held[tenant] = self._held.get(tenant, 0) + 1

    def give(self, tenant: str) -> None:
        """Stop counting one."""
        self._held[tenant] -= 1


def tenant_of(identity: Identity) -> str:
    """Return for whom the calls of somebody count."""
    return UNKNOWN if identity is NOBODY else identity.tenant


def calls(most: int) -> FairShare:
    """Return the shares of the calls that a node handles at once."""
    hint = "send fewer at a time, or raise [limits] calls"
    return FairShare(most, what="calls", hint=hint)
