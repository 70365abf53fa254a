"""The seam between an application and what runs it: the node, or a test's memory.

One host at a time, replaced by `plexspaces_actor.component` when the application is built and by
`plexspaces_actor.testing` in a test. It is the module's only state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ._errors import ActorFailure


class Host(Protocol):
    """What the contract lets an application import, apart from its log."""

    def get(self, key: str) -> bytes | None:
        """Return the value of `key`, or None; raises `KeyValueError`."""

    def put(self, key: str, value: bytes) -> None:
        """Store `value`; raises `KeyValueError`."""

    def delete(self, key: str) -> None:
        """Forget `key`, silently when it is not there; raises `KeyValueError`."""

    def tell(self, to: str, message_type: str, payload: bytes) -> None:
        """Put a message into the other's mailbox; raises `ActorFailure`."""

    def ask(self, to: str, message_type: str, payload: bytes, timeout_ms: int) -> bytes:
        """Send a message and wait for its reply; raises `ActorFailure`."""


Answer = Callable[[str, bytes], bytes]
"""What `MemoryHost.ask` calls: message type and payload in, reply out."""


class MemoryHost:
    """The stand-in outside a component.

    Attributes:
        values: what `keyvalue` holds.
        told: what `tell` sent, as (application, message type, payload), oldest first.
        applications: who answers an `ask`: the actor's `receive`, or any function like it.
    """

    def __init__(self, applications: Mapping[str, Answer] | None = None) -> None:
        self.values: dict[str, bytes] = {}
        self.told: list[tuple[str, str, bytes]] = []
        self.applications: dict[str, Answer] = dict(applications or {})

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def tell(self, to: str, message_type: str, payload: bytes) -> None:
        self.told.append((to, message_type, payload))

    def ask(self, to: str, message_type: str, payload: bytes, timeout_ms: int) -> bytes:
        answer = self.applications.get(to)
        if answer is None:
            raise ActorFailure("not-found", f"no application named {to!r}")
        return answer(message_type, payload)


_seat: list[Host] = [MemoryHost()]


def current() -> Host:
    """Return the host in place."""
    return _seat[0]


def install(host: Host) -> Host:
    """Put `host` in place and return the one it replaces."""
    replaced, _seat[0] = _seat[0], host
    return replaced
