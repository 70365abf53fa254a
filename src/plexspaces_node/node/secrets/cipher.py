"""Encryption of secrets: AES-256-GCM, bound to the place of the value. Pure functions of a key.

docs/decisions/029-secrets-under-a-key-elsewhere.md has the reasons.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plexspaces_node.errors import WrongState

KEY_BYTES = 32
_NONCE_BYTES = 12
_ID_BYTES = 8


class SecretUnusable(WrongState):
    """A secret that an application needs cannot be used until a user does something about it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value belongs; the same bytes are worth nothing anywhere else."""

    tenant: str
    name: str
    version: int

    @property
    def associated_data(self) -> bytes:
        """What is authenticated with the value."""
        return msgspec.json.encode(("plexspaces-secret", self.tenant, self.name, self.version))


class Key:
    """A key of 256 bits.

    Attributes:
        id: tells keys apart, in hex, and says nothing about the key.
    """

    __slots__ = ("_aead", "id")

    def __init__(self, secret: bytes) -> None:
        """Raise `ValueError` for another length."""
        if len(secret) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")
        self.id = hashlib.blake2b(
            key=secret, digest_size=_ID_BYTES, person=b"plexspaces-key"
        ).hexdigest()
        self._aead = AESGCM(secret)

    def __repr__(self) -> str:
        return f"<Key {self.id}>"

    def seal(self, place: Place, value: bytes) -> bytes:
        """Encrypt a value for its place."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, value, place.associated_data)

    def unseal(self, place: Place, sealed: bytes) -> bytes:
        """Decrypt a value.

        Raises `SecretUnusable` if it was changed, or sealed for another place or with another key.
        """
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, rest, place.associated_data)
        except (InvalidTag, ValueError):
            raise SecretUnusable(
                f"secret {place.name!r} cannot be decrypted: its row in the registry was changed",
                hint="set it again, or restore a backup: plexspaces restore",
            ) from None
