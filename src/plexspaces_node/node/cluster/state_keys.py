"""What is in the bucket of actors' states: its keys, and how values, states and fences are written.

An application has its own below its tenant, its name and its id, so that one deployed anew under
the same name never sees what another has left:

    fence.TENANT.NAME.ID            `Fenced`: who may write the rest
    key.TENANT.NAME.ID.KEY          a value, or `Parted`; KEY in base64url
    part.TENANT.NAME.ID.KEY.PUT.N   a part of a long value, of one put
    state.TENANT.NAME.ID.manifest   `Manifest`: the saved state
    snap.TENANT.NAME.ID.TAKEN.BEGIN a part of a state

A message of NATS has 1 MiB at most, so what is longer than `CHUNK_BYTES` goes in parts, before what
names them.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from plexspaces_node.model import split_name
from plexspaces_node.node.registry.sqlite_errors import Damaged

CHUNK_BYTES = 512 * 1024
"""The longest value of a key in the bucket, but for a few bytes that say what it is."""

FENCES = "fence."
"""The prefix of every fence."""

_WHOLE, _PARTED = b"\0", b"\1"

_T = TypeVar("_T", bound=msgspec.Struct)


class Fenced(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may write an actor's state: whoever wrote this last.

    Attributes:
        epoch: of the placement; a node with an older one may not take over.
        node: the owner.
        token: the owner's own, of this taking over.
        count: raised by the owner when a write of its own may still be under way.
        is_whole: False while a bucket that was lost is filled again.
        is_gone: the application was undeployed, and what there is of it is being removed.
    """

    epoch: int
    node: str
    token: str
    count: int = 0
    is_whole: bool = True
    is_gone: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A saved state; its parts are below its `taken_ns`.

    Attributes:
        digest: SHA-256 of all of it, in hexadecimal.
    """

    taken_ns: int
    size_bytes: int
    digest: str


class Parted(msgspec.Struct, frozen=True, kw_only=True):
    """A value in parts of `CHUNK_BYTES`; the last one is shorter.

    Attributes:
        put: names its parts: those of the value before stay until this is written.
    """

    put: str
    size_bytes: int
    digest: str


class StateKeys:
    """The keys of one application.

    Attributes:
        fence: the key of its fence.
        manifest: the key of its manifest.
        below: the prefixes of everything but its fence.
    """

    def __init__(self, name: str, id_: str) -> None:
        where = ".".join((*split_name(name), id_))
        self.fence = f"{FENCES}{where}"
        self.manifest = f"state.{where}.manifest"
        self.values, self._parts, self.states = f"key.{where}.", f"part.{where}.", f"snap.{where}."
        self.below = (self.values, self._parts, self.states, f"state.{where}.")

    def __repr__(self) -> str:
        return f"<StateKeys {self.fence}>"

    def value(self, key: str) -> str:
        """Return where the value of a key is, or what names its parts."""
        return f"{self.values}{_coded(key)}"

    def parts(self, key: str) -> str:
        """Return the prefix of the parts of all values of a key."""
        return f"{self._parts}{_coded(key)}."

    def part(self, key: str, put: str, number: int) -> str:
        """Return where a part of a value is."""
        return f"{self.parts(key)}{put}.{number}"

    def state(self, taken_ns: int, begin: int) -> str:
        """Return where the part of a state is that begins at a byte."""
        return f"{self.states}{taken_ns}.{begin}"

    def key_of(self, found: str) -> str:
        """Return the key whose value is there; raises `Damaged`."""
        coded = found.removeprefix(self.values)
        try:
            return urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
        except ValueError:
            raise Damaged(f"the cluster's bucket has a key that is none: {found[:200]!r}") from None

    def written(self, key: str, value: bytes) -> list[tuple[str, bytes]]:
        """Return the entries of the bucket for a key and its value, in the order of writing."""
        if len(value) <= CHUNK_BYTES:
            return [(self.value(key), _WHOLE + value)]
        put, digest = secrets.token_hex(8), hashlib.sha256(value).hexdigest()
        head = Parted(put=put, size_bytes=len(value), digest=digest)
        return [
            *(
                (self.part(key, put, number), chunk)
                for number, (_, chunk) in enumerate(chunks(0, value))
            ),
            (self.value(key), _PARTED + encode(head)),
        ]


def value_of(entry: bytes) -> bytes | Parted:
    """Return the value that an entry is, or what names its parts; raises `Damaged`."""
    if entry[:1] == _WHOLE:
        return entry[1:]
    if entry[:1] != _PARTED:
        raise Damaged("the cluster's bucket has a value of an unknown form")
    return decode(entry[1:], Parted)


def chunks(begin: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Divide a part that begins at a byte into parts that fit into the bucket."""
    for at in range(0, len(body), CHUNK_BYTES):
        yield begin + at, body[at : at + CHUNK_BYTES]


def encode(record: msgspec.Struct) -> bytes:
    """Write a record."""
    return msgspec.json.encode(record)


def decode(raw: bytes, cls: type[_T]) -> _T:
    """Read a record; raises `Damaged`."""
    try:
        return msgspec.json.decode(raw, type=cls)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Damaged(
            f"a {cls.__name__} in the cluster's bucket cannot be read: {error}",
            hint="plexspaces nodes",
        ) from None


def _coded(key: str) -> str:
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")
