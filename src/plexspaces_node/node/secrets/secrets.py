"""The secrets of a node: set, listed, deleted, and decrypted for the start of an application.

A value is in memory while it is set and while an application that uses it is loaded, and nowhere
else in clear. No error, log line or record here has one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import time_ns
from typing import Protocol

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.info import SecretInfo
from plexspaces_node.model import check_name, check_secret_name, is_environment_value, split_name
from plexspaces_node.node.registry.secrets import Salt, Seal, SealedSecret, SecretRows
from plexspaces_node.node.secrets.cipher import Key, Place, SecretUnusable
from plexspaces_node.node.secrets.key import (
    SALT_BYTES,
    KeySource,
    Passphrase,
    derive,
    file_or_credential,
)
from plexspaces_node.settings import SecretsSection

_log = logging.getLogger(__name__)

VALUE_LIMIT_BYTES = 64 * 1024
"""The longest value of a secret."""


class SecretStore(Protocol):
    """Where secrets are kept; as `SecretRows` says it."""

    async def put(
        self, tenant: str, name: str, now_ns: int, seal: Seal, *, restart: bool = False
    ) -> int:
        """Store the next version and return its number; `restart` its users on other nodes."""

    async def get(self, tenant: str, names: Iterable[str]) -> dict[str, SealedSecret]:
        """Return those that exist, by name."""

    async def list(self, tenant: str | None) -> list[SecretInfo]:
        """Return them by name, of a tenant or of all."""

    async def delete(self, tenant: str, name: str, *, force: bool) -> tuple[str, ...]:
        """Remove one and return the applications that use it."""

    async def key_ids(self) -> frozenset[str]:
        """Return the ids of the keys with which they are sealed."""


class Secrets:
    """The secrets in a registry, with the key that reads them. Used from one event loop."""

    def __init__(
        self, rows: SecretStore, source: KeySource, *, clock: Callable[[], int] = time_ns
    ) -> None:
        self._rows = rows
        self._source = source
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Secrets under {self._source.place}>"

    def share(self, store: SecretStore, source: KeySource) -> None:
        """Keep them there from now on, under this key: the node is one of a cluster."""
        self._rows, self._source = store, source

    @property
    def source(self) -> KeySource:
        """Where their key is."""
        return self._source

    async def set(self, tenant: str, name: str, value: bytes, *, restart: bool = False) -> int:
        """Store a value and return its version. The first one of a node makes its key.

        `restart` restarts the applications that use it on other nodes; those here, `SecretUsers`.

        Raises `InvalidArgument` for a name or a value that cannot be one, `SecretUnusable` if there
        is no key, `ResourceExhausted` if the tenant has too many secrets or the disk is full.
        """
        check_name(tenant, what="tenant")
        check_secret_name(name)
        if len(value) > VALUE_LIMIT_BYTES:
            raise InvalidArgument(
                f"a value of {len(value)} bytes is longer than {VALUE_LIMIT_BYTES}",
                hint="keep large data elsewhere, and in the secret what opens it",
            )
        if not is_environment_value(value):
            raise InvalidArgument(
                "the value is not UTF-8, or contains a zero byte",
                hint="encode it, for example with: base64 FILE",
            )
        key = await asyncio.to_thread(self._source.read) or await self._make_key()

        def seal(version: int) -> tuple[str, bytes]:
            return key.id, key.seal(Place(tenant, name, version), value)

        return await self._rows.put(tenant, name, self._clock(), seal, restart=restart)

    async def list(self, tenant: str | None) -> list[SecretInfo]:
        """Describe the secrets of a tenant, None for all; without their values."""
        return await self._rows.list(tenant)

    async def delete(self, tenant: str, name: str, *, force: bool = False) -> tuple[str, ...]:
        """Remove a secret; return the applications that use it, which do not start again then.

        Raises `NotFound`, and `WrongState` if there are some, unless `force`.
        """
        return await self._rows.delete(tenant, name, force=force)

    async def check(self, application: str, secrets: Mapping[str, str]) -> None:
        """Raise for a secret that an application's start would fail for: see `values_of`.

        `secrets` has a secret's name for each variable. Raises `NotFound` for one that is not in
        the application's tenant, and else `SecretUnusable`.
        """
        if secrets:
            tenant, _ = split_name(application)
            found = await self._rows.get(tenant, secrets.values())
            if lacking := [name for name in secrets.values() if name not in found]:
                raise _missing(tenant, lacking[0])
            await self._key_of(application, found)

    async def check_usable(self, application: str, secrets: Mapping[str, str]) -> None:
        """Raise `SecretUnusable` if `values_of` would, without decrypting."""
        if secrets:
            await self._usable(application, secrets)

    async def fault(self) -> str:
        """Return why the secrets that there are cannot be decrypted, "" if they can."""
        ids = await self._rows.key_ids()
        try:
            key = await asyncio.to_thread(self._source.read) if ids else None
        except SecretUnusable as error:
            return error.message
        if ids <= {key and key.id}:
            return ""
        return f"the key of secrets, {_listed(ids)}, is not in {self._source.place}"

    async def values_of(self, application: str, secrets: Mapping[str, str]) -> dict[str, str]:
        """Return the values of an application's variables that come from secrets.

        For its load: they are not to be kept. Raises `SecretUnusable` for one that is missing, and
        if the key is missing or another one.
        """
        if not secrets:
            return {}
        tenant, _ = split_name(application)
        key, found = await self._usable(application, secrets)
        values = {}
        for variable, name in secrets.items():
            place = Place(tenant, name, found[name].version)
            values[variable] = key.unseal(place, found[name].sealed).decode()
        return values

    async def _usable(
        self, application: str, secrets: Mapping[str, str]
    ) -> tuple[Key, Mapping[str, SealedSecret]]:
        tenant, _ = split_name(application)
        found = await self._rows.get(tenant, secrets.values())
        if lacking := [name for name in secrets.values() if name not in found]:
            error = _missing(tenant, lacking[0])
            raise SecretUnusable(error.message, hint=error.hint)
        return await self._key_of(application, found), found

    async def _key_of(self, application: str, found: Mapping[str, SealedSecret]) -> Key:
        key = await asyncio.to_thread(self._source.read)
        for secret in found.values():
            if key is None:
                raise SecretUnusable(
                    f"the key of secret {secret.name!r}, {secret.key_id}, is not in "
                    f"{self._source.place}",
                    hint=f"bring it back, then: plexspaces start {application}",
                )
            if key.id != secret.key_id:
                raise SecretUnusable(
                    f"secret {secret.name!r} is encrypted with key {secret.key_id}, "
                    f"and {self._source.place} is key {key.id}",
                    hint=f"bring the former key back, or set {secret.name} again",
                )
        assert key is not None
        return key

    async def _make_key(self) -> Key:
        if ids := await self._rows.key_ids():
            # A new key would hide that the one of the others is gone.
            raise SecretUnusable(
                f"the key of the node's secrets, {_listed(ids)}, is not in {self._source.place}",
                hint="bring it back; or delete all secrets, and set them under a new key",
            )
        return await asyncio.to_thread(self._source.make)


async def open_secrets(
    rows: SecretRows, section: SecretsSection, data_dir: Path, passphrase: str | None
) -> Secrets:
    """Return the secrets of a node, under the key that its settings name.

    Without the key the node starts all the same; a warning says what is missing. Raises
    `InvalidArgument` for another passphrase than that of the secrets.
    """
    source: KeySource
    if section.passphrase or passphrase is not None:
        source = await of_passphrase(rows, passphrase)
    else:
        source = file_or_credential(section.key_file, data_dir, os.environ)
    secrets = Secrets(rows, source)
    if fault := await secrets.fault():
        _log.warning("applications that use secrets cannot start: %s", fault)
    return secrets


async def of_passphrase(rows: SecretRows, passphrase: str | None) -> Passphrase:
    """Return the key of a passphrase, None for one that was not given.

    Raises `InvalidArgument` for another one than that of the node's secrets.
    """
    if passphrase is None:
        return Passphrase(None)
    known = await rows.salt()
    salt = known.salt if known else os.urandom(SALT_BYTES)
    key = await asyncio.to_thread(derive, passphrase, salt)
    if known is not None and known.key_id == key.id:
        return Passphrase(key)
    if known is not None and known.key_id in await rows.key_ids():
        raise InvalidArgument(
            "this is not the passphrase with which the node's secrets are encrypted",
            hint="start the node again, with the right one",
        )
    await rows.set_salt(Salt(salt, key.id))
    return Passphrase(key)


def _listed(ids: Iterable[str]) -> str:
    return " and ".join(sorted(ids))


def _missing(tenant: str, name: str) -> NotFound:
    return NotFound(
        f"there is no secret {name!r} in tenant {tenant!r}",
        hint=f"plexspaces secret set {name} --tenant {tenant}",
    )
