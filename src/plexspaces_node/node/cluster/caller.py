"""What one node tells another of a message or a call that it passes on, in headers and metadata.

They are believed on the ports for other nodes alone, where whoever calls has proved to be one. The
other node decides again whether the caller may do this.

    plexspaces-hop: 1               always: it is not passed on again
    plexspaces-caller: {...}        who calls, as JSON
    plexspaces-to: NAME PREFIX      HTTP only: the application, and how its paths begin
    plexspaces-sender: NAME         the actor that sends it
    plexspaces-waiting: NAME,NAME   the actors that wait for the reply, the sender first
    plexspaces-tell: 1              nobody waits for the reply
    plexspaces-not-here: 1          of an answer: the application is not on this node
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import msgspec

from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.model import check_full_name, split_name
from plexspaces_node.node.access.identity import LOCAL, NOBODY, UNGUARDED, Identity, Kind, Scope
from plexspaces_node.node.applications.waits import MOST_WAITING

HOP, CALLER, TO = "plexspaces-hop", "plexspaces-caller", "plexspaces-to"
SENDER, WAITING, TELL = "plexspaces-sender", "plexspaces-waiting", "plexspaces-tell"
NOT_HERE = "plexspaces-not-here"

HEADERS = frozenset(each.encode() for each in (HOP, CALLER, TO, SENDER, WAITING, TELL, NOT_HERE))
"""Those of nodes alone: nobody else's are passed on."""

MOST_BYTES = 4096
"""The longest that a caller is told in."""

NOT_HERE_CODE = "not_here"
"""The code of a problem, and of an error by gRPC, that says that an application is not here."""


class NotHere(Unavailable):
    """An application is not on the node that another one has passed a call on to."""

    code = NOT_HERE_CODE

    def __init__(self, name: str) -> None:
        super().__init__(f"application {name!r} is not on this node", hint="plexspaces nodes")


_MOST_CHARS = 256
_Text = Annotated[str, msgspec.Meta(max_length=_MOST_CHARS)]


class Caller(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who makes a call, and by which connection to the node that passes it on.

    Attributes:
        kind, name, scopes, tenant, applications: as in `Identity`.
        peer: the connection, as that node names it.
        scheme: by which the client called, for applications that want to know.
        is_local: whether by a unix socket of that node.
    """

    kind: Kind
    name: _Text
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(max_length=len(Scope))]
    tenant: _Text
    applications: _Text
    peer: _Text = ""
    scheme: Annotated[str, msgspec.Meta(pattern="^https?$")] = "http"
    is_local: bool = False

    @property
    def identity(self) -> Identity:
        """Who calls; of those that the node knows by themselves the object."""
        found = Identity(
            self.kind, self.name, frozenset(self.scopes), self.tenant, self.applications
        )
        return next((each for each in (LOCAL, UNGUARDED, NOBODY) if each == found), found)


_encode = msgspec.json.Encoder().encode
_decode: Callable[[bytes], Caller] = msgspec.json.Decoder(Caller).decode


def caller_text(
    identity: Identity, *, peer: str = "", scheme: str = "http", is_local: bool = False
) -> bytes:
    """Return who calls as another node is told it: ASCII, on one line."""
    scopes = tuple(sorted(identity.scopes))
    told = Caller(
        *(identity.kind, identity.name, scopes, identity.tenant, identity.applications),
        *(peer[:_MOST_CHARS], scheme, is_local),
    )
    text: bytes = _encode(told)
    return text if text.isascii() else json.dumps(json.loads(text)).encode()


@lru_cache(maxsize=1024)
def parse_caller(text: bytes) -> tuple[Caller, Identity]:
    """Return who calls, as another node says; raises `InvalidArgument` for anything else."""
    try:
        if len(text) > MOST_BYTES:
            raise InvalidArgument(f"a caller of {len(text)} bytes", hint="plexspaces nodes")
        caller = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(
            "another node says who calls in a way that this one does not know",
            hint="let all nodes run the same version: plexspaces nodes",
        ) from error
    return caller, caller.identity


def application_identity(name: str) -> Identity:
    """Return an actor, by its full name, as who sends a message to others of its tenant."""
    tenant, local = split_name(name)
    return Identity(Kind.APPLICATION, local, frozenset({Scope.INVOKE}), tenant)


def waiting_text(waiting: tuple[str, ...]) -> str:
    """Return those who wait as another node is told it."""
    return ",".join(waiting)


def parse_waiting(text: str) -> tuple[str, ...]:
    """Return those who wait, as another node says; raises `InvalidArgument` for anything else."""
    waiting = tuple(text.split(",", MOST_WAITING)) if text else ()
    if len(waiting) > MOST_WAITING:
        raise InvalidArgument(f"more than {MOST_WAITING} actors wait", hint="plexspaces nodes")
    for each in waiting:
        check_full_name(each)
    return waiting
