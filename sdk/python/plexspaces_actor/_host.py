"""The interface between an application and what runs it: the node, or a test's memory.

There is one host at a time. `plexspaces_actor.component` replaces it when the application is built,
`plexspaces_actor.testing` in a test. It is the module's only state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ._errors import ActorFailure


class Host(Protocol):
    """What the contract lets an application import, except for its log."""

    def get(self, key: str) -> bytes | None:
        """Return the value of `key`, or None; raises `KeyValueError`."""

    def put(self, key: str, value: bytes) -> None:
        """Store `value`; raises `KeyValueError`."""

    def delete(self, key: str) -> None:
        """Delete `key`, if it exists; raises `KeyValueError`."""

    def tell(self, to: str, message_type: str, payload: bytes) -> None:
        """Put a message into the other application's mailbox; raises `ActorFailure`."""

    def ask(self, to: str, message_type: str, payload: bytes, timeout_ms: int) -> bytes:
        """Send a message and wait for its reply; raises `ActorFailure`."""

    def fetch(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_ms: int
    ) -> tuple[int, Pairs, bytes]:
        """Send an HTTP request and return status, headers and body; raises `ActorFailure`."""


Pairs = list[tuple[str, bytes]]
"""Headers: their names and values."""

Answer = Callable[[str, bytes], bytes]
"""Called by `MemoryHost.ask`: takes message type and payload, returns the reply."""


class MemoryHost:
    """The host outside a component.

    Attributes:
        values: the content of `keyvalue`.
        told: what `tell` sent, as (application, message type, payload), oldest first.
        applications: who answers an `ask`: the actor's `receive`, or a function like it.
        web: what `fetch_sync` finds, by URL: status and body. It finds nothing else.
    """

    def __init__(self, applications: Mapping[str, Answer] | None = None) -> None:
        self.values: dict[str, bytes] = {}
        self.told: list[tuple[str, str, bytes]] = []
        self.applications: dict[str, Answer] = dict(applications or {})
        self.web: dict[str, tuple[int, bytes]] = {}

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

    def fetch(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_ms: int
    ) -> tuple[int, Pairs, bytes]:
        if url not in self.web:
            raise ActorFailure("http-request-denied", f"the test has nothing in web for {url}")
        status, content = self.web[url]
        return status, [], content


_seat: list[Host] = [MemoryHost()]


def current() -> Host:
    """Return the current host."""
    return _seat[0]


def install(host: Host) -> Host:
    """Use `host` from now on and return the previous one."""
    replaced, _seat[0] = _seat[0], host
    return replaced
