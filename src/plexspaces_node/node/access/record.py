"""Notes in the audit log what calls did, and which were refused."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import lru_cache
from ipaddress import ip_address
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from plexspaces_node.errors import ActorError, PermissionDenied, PlexSpacesError, Unauthenticated
from plexspaces_node.node.access.audit import Event
from plexspaces_node.node.access.identity import ALL, NOBODY, Identity
from plexspaces_node.node.access.policy import Rule

if TYPE_CHECKING:
    from plexspaces_node.node.access.gate import Call

REFUSALS = (Unauthenticated, PermissionDenied)

_NAMES = ("name", "vm_id", "digest", "application", "node")
"""The fields of requests that say what a call is about."""

Note = Callable[[Event], None]


class Recorder:
    """Notes calls with `AuditLog.note`. Used on the event loop."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def __repr__(self) -> str:
        return f"<Recorder by {self._note!r}>"

    def refused(
        self,
        error: PlexSpacesError,
        verb: str,
        *,
        peer: str,
        identity: Identity = NOBODY,
        about: str = "",
    ) -> None:
        """Note a call that the gate did not let in."""
        self._note(
            Event(
                identity.kind,
                identity.name,
                address_of(peer),
                "" if identity.tenant == ALL or identity is NOBODY else identity.tenant,
                _short(verb),
                about,
                error.code,
                refused=True,
            )
        )

    def recorded(self, verb: str, rule: Rule, behavior: Any) -> Any:
        """Return a servicer's method that is noted when it ends, if the policy says so."""
        if not rule.changes:
            return behavior
        if inspect.isasyncgenfunction(behavior):

            async def generate(request: Any, call: Call) -> AsyncIterator[Any]:
                with self._noted(verb, request, call):
                    async with aclosing(behavior(request, call)) as replies:
                        async for reply in replies:
                            yield reply

            return generate

        async def perform(request: Any, call: Call) -> Any:
            with self._noted(verb, request, call):
                return await behavior(request, call)

        return perform

    @contextmanager
    def _noted(self, verb: str, request: Any, call: Call) -> Iterator[None]:
        """Note a call at its end: also one that its caller leaves, or that is cancelled."""
        begin_ns, result = perf_counter_ns(), "cancelled"
        try:
            yield
            result = "ok"
        except Exception as error:
            result = _code_of(error)
            raise
        finally:
            self._ended(verb, request, call, result, begin_ns)

    def _ended(self, verb: str, request: Any, call: Call, result: str, begin_ns: int) -> None:
        tenant = call.tenant if call.identity.tenant == ALL else call.identity.tenant
        if tenant == ALL:
            # Done by somebody of all tenants, to one of them.
            tenant = getattr(request, "tenant", "") or ALL
        named = next((said for name in _NAMES if (said := getattr(request, name, ""))), "")
        self._note(
            Event(
                call.identity.kind,
                call.identity.name,
                address_of(call.peer()),
                "" if tenant == ALL else tenant,
                _short(verb),
                call.name or named or call.object,
                result,
                perf_counter_ns() - begin_ns,
            )
        )


@lru_cache(maxsize=1024)
def address_of(peer: str) -> str:
    """Return the address in the name of a connection, without its port; `unix` for a socket.

    A peer is as gRPC names it (``ipv4:127.0.0.1:4711``) or HOST:PORT.
    """
    if peer.startswith("unix"):
        return "unix"
    text = peer.removeprefix("ipv4:").removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]")
    for candidate in (text, text.rpartition(":")[0]):
        try:
            return str(ip_address(candidate.strip("[]")))
        except ValueError:
            continue
    return text


def _short(verb: str) -> str:
    return verb.rpartition(".")[2]


def _code_of(error: Exception) -> str:
    if isinstance(error, PlexSpacesError | ActorError):
        return error.code
    return "internal"
