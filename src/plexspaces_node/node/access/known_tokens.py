"""The tokens of a node in memory: what its gate asks, and who is told when one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import time_ns

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import DEFAULT_TENANT, check_name
from plexspaces_node.node.access.identity import ALL, UNGUARDED, Identity, Kind, Scope
from plexspaces_node.node.access.proof import Ended, Proof
from plexspaces_node.node.access.token_key import TokenKey
from plexspaces_node.node.registry.tokens import TokenRecord
from plexspaces_node.token_text import LENGTH, PREFIX

_PREFIX = PREFIX.encode()
_SCOPES = frozenset(Scope)


@dataclass(slots=True, eq=False)
class _Held:
    """A token in memory.

    Attributes:
        record: as it is in the registry.
        by_secret: the proofs of its secrets, by their hashes.
        by_certificate: that of its name; None once it is revoked.
    """

    record: TokenRecord
    by_secret: dict[bytes, Proof] = field(default_factory=dict)
    by_certificate: Proof | None = None

    def told(self) -> TokenRecord:
        """Return the record with when it was last used, by any proof."""
        certificate_ns = 0 if self.by_certificate is None else self.by_certificate.used_ns
        secrets_ns = [proof.used_ns for proof in self.by_secret.values()]
        used_ns = max(self.record.used_ns, certificate_ns, *secrets_ns, 0)
        return (
            self.record if used_ns == self.record.used_ns else replace(self.record, used_ns=used_ns)
        )


class KnownTokens:
    """The tokens that a gate knows, by hash, by name and by who was let in. On one event loop."""

    def __init__(self, key: TokenKey, *, clock: Callable[[], int] = time_ns) -> None:
        self._key = key
        self._clock = clock
        self._held: dict[tuple[str, str], _Held] = {}
        self._by_hash: dict[bytes, Proof] = {}
        # Until there is a token.
        self._unguarded = Proof(UNGUARDED)
        # By the identity itself, not by what it says: its proof holds it.
        self._proofs: dict[int, Proof] = {id(UNGUARDED): self._unguarded}

    def __repr__(self) -> str:
        return f"<KnownTokens {len(self._held)}>"

    # ---- for the gate ------------------------------------------------------------------

    def exist(self) -> bool:
        """Return whether the node has ever had a token, so that callers say who they are."""
        return self._key.exists

    def by_token(self, token: bytes) -> Identity | None:
        """Return whose token this is; None for one that is unknown, revoked or expired."""
        if len(token) != LENGTH or not token.startswith(_PREFIX):
            return None
        proof = self._by_hash.get(self._key.hash(token))
        return None if proof is None else proof.taken()

    def by_certificate(self, name: str) -> Identity | None:
        """Return what is granted to the name in a certificate: NAME or TENANT/NAME.

        NAME alone is a token of all tenants, else of the tenant `default`.
        """
        tenant, slash, rest = name.partition("/")
        keys = ((tenant, rest),) if slash else ((ALL, name), (DEFAULT_TENANT, name))
        for key in keys:
            held = self._held.get(key)
            if held is not None and held.by_certificate is not None:
                return held.by_certificate.taken()
        return None

    def is_current(self, identity: Identity) -> bool:
        """Return whether a token or a certificate still proves this identity.

        It is one that this has returned: the object.
        """
        proof = self._proofs.get(id(identity))
        if proof is None:
            return False
        proof.used_ns = now_ns = self._clock()
        return not proof.until_ns or now_ns < proof.until_ns

    def watch(self, identity: Identity, ended: Ended) -> Callable[[], None]:
        """Call `ended` once what proved this identity is revoked or expires.

        It is one that this has returned: the object. `ended` is called soon if that has happened.
        The returned function ends the watch, and may be called twice.
        """
        proof = self._proofs.get(id(identity))
        if proof is not None:
            return proof.watch(ended)
        if identity.kind in (Kind.TOKEN, Kind.CERTIFICATE):
            return asyncio.get_running_loop().call_soon(ended).cancel
        return lambda: None

    # ---- for what keeps them -----------------------------------------------------------

    def records(self) -> list[TokenRecord]:
        """Return every token, with when it was last used, by tenant and name."""
        return [held.told() for _, held in sorted(self._held.items())]

    def find(self, tenant: str, name: str) -> TokenRecord:
        """Return a token; without a tenant one of any, if no other has its name.

        `ALL` finds one that is for all tenants: no tenant can stand in its way. Raises `NotFound`,
        and `InvalidArgument` for a name that several tenants have.
        """
        check_name(name, what="token name")
        keys = [key for key in self._held if key[1] == name and tenant in ("", key[0])]
        if not keys:
            of = f" of tenant {tenant!r}" if tenant else ""
            raise NotFound(f"there is no token {name!r}{of}", hint="plexspaces token list")
        if len(keys) > 1:
            tenants = ", ".join(sorted(key[0] for key in keys))
            raise InvalidArgument(
                f"several tenants have a token {name!r}: {tenants}",
                hint="choose one with --tenant; that of all tenants with --tenant '*'",
            )
        return self._held[keys[0]].told()

    def add(self, record: TokenRecord) -> None:
        """Let in whoever brings this token, and nobody any more who brings none."""
        held = _Held(record)
        self._held[record.tenant, record.name] = held
        held.by_certificate = self._prove(record, Kind.CERTIFICATE, record.expires_ns)
        self._add_secret(held, record.hash, record.expires_ns)
        if record.previous_hash:
            self._add_secret(held, record.previous_hash, _previous_until_ns(record))
        self._unguarded.end()

    def renew(self, record: TokenRecord) -> None:
        """Take over a token's new secret, and leave it the one before for as long as it works."""
        held = self._held[record.tenant, record.name]
        held.record = record
        for hash_, proof in tuple(held.by_secret.items()):
            if hash_ == record.previous_hash:
                proof.extend(_previous_until_ns(record))
            else:
                del held.by_secret[hash_]
                self._end(hash_, proof)
        self._add_secret(held, record.hash, record.expires_ns)
        if held.by_certificate is not None:
            held.by_certificate.extend(record.expires_ns)

    def put(self, record: TokenRecord) -> None:
        """Take over a token as it is elsewhere: a new one, a new secret, or the same again."""
        held = self._held.get((record.tenant, record.name))
        if held is None:
            self.add(record)
            return
        record = replace(record, used_ns=held.told().used_ns)
        if record == held.record:
            return
        if _grants(record) != _grants(held.record):
            self.end(held.record)
            self.add(record)
        else:
            self.renew(record)
            if (before := record.previous_hash) and before not in held.by_secret:
                self._add_secret(held, before, _previous_until_ns(record))

    def end(self, record: TokenRecord) -> None:
        """Let nobody in any more by a token, and end what streams by it. Idempotent."""
        held = self._held[record.tenant, record.name]
        for hash_, proof in held.by_secret.items():
            self._end(hash_, proof)
        held.by_secret.clear()
        if held.by_certificate is not None:
            self._end(b"", held.by_certificate)
            held.by_certificate = None

    def drop(self, tenant: str, name: str) -> None:
        """End a token, if it is there, and do not list it any more."""
        if (held := self._held.get((tenant, name))) is not None:
            self.end(held.record)
            self.forget(held.record)

    def forget(self, record: TokenRecord) -> None:
        """Do not list a token any more that has ended."""
        del self._held[record.tenant, record.name]

    def take_used(self) -> dict[tuple[str, str], int]:
        """Return when tokens were last used, of those used since this was called before."""
        used = {}
        for key, held in self._held.items():
            told = held.told()
            if told is not held.record:
                held.record = told
                used[key] = told.used_ns
        return used

    def _add_secret(self, held: _Held, hash_: bytes, until_ns: int) -> None:
        proof = self._prove(held.record, Kind.TOKEN, until_ns)
        held.by_secret[hash_] = self._by_hash[hash_] = proof

    def _prove(self, record: TokenRecord, kind: Kind, until_ns: int) -> Proof:
        # What only a newer version knows allows nothing here.
        scopes = frozenset(Scope(each) for each in record.scopes if each in _SCOPES)
        identity = Identity(kind, record.name, scopes, record.tenant, record.applications)
        proof = Proof(identity, until_ns, clock=self._clock)
        self._proofs[id(identity)] = proof
        return proof

    def _end(self, hash_: bytes, proof: Proof) -> None:
        self._by_hash.pop(hash_, None)
        self._proofs.pop(id(proof.identity), None)
        proof.end()


def _grants(record: TokenRecord) -> tuple[object, ...]:
    return record.created_ns, record.scopes, record.applications, record.key_check


def _previous_until_ns(record: TokenRecord) -> int:
    until_ns = record.previous_until_ns
    return min(until_ns, record.expires_ns or until_ns)
