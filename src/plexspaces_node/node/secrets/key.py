"""Where the key of the secrets comes from: a systemd credential, a file, or a passphrase.

Never from the data directory, so that a copy of it, as a backup is one, does not have the key.
Everything here blocks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from plexspaces_node.errors import AlreadyExists, InvalidArgument, quoted
from plexspaces_node.node.secrets.cipher import KEY_BYTES, Key, SecretUnusable
from plexspaces_node.private_file import read_private, write_new
from plexspaces_node.settings import SECRETS_CREDENTIAL

SALT_BYTES = 16
# What OWASP recommends for passphrases: 128 MiB of memory, about half a second.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**17, 8, 1


class KeySource(Protocol):
    """Where the key comes from."""

    @property
    def place(self) -> str:
        """Where the key is, in words, for messages."""

    def read(self) -> Key | None:
        """Return the key, None if there is none. Raises `SecretUnusable` for an unusable one."""

    def make(self) -> Key:
        """Make a new key and keep it there; raises `SecretUnusable` where that is not possible."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key in a file of the node's user, which is made when the first secret is set.

    Attributes:
        data_dir: where it must not be.
    """

    path: Path
    data_dir: Path

    @property
    def place(self) -> str:
        return str(self.path)

    def read(self) -> Key | None:
        self._check_place()
        try:
            self.path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            pass  # told by what follows
        return self._read()

    def make(self) -> Key:
        self._check_place()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(AlreadyExists):
                write_new(self.path, os.urandom(KEY_BYTES).hex().encode() + b"\n")
        except (OSError, InvalidArgument) as error:
            raise SecretUnusable(
                f"the key of the secrets cannot be kept in {self.path}: {error}",
                hint="set [secrets] key_file to a path that the node may write",
            ) from error
        return self._read()

    def _read(self) -> Key:
        try:
            content = read_private(self.path, what="the key of the secrets", of_user=True)
        except InvalidArgument as error:
            raise SecretUnusable(error.message, hint=error.hint) from error
        return _key_in(content, self.path)

    def _check_place(self) -> None:
        # Where it really is, so that a link does not lead there either.
        if self.path.resolve().is_relative_to(self.data_dir.resolve()):
            raise SecretUnusable(
                f"the key of the secrets must not be in the data directory: {self.path}",
                hint="set [secrets] key_file to a path outside of it",
            )


@dataclass(frozen=True, slots=True)
class Credential:
    """A key that systemd gives the node."""

    path: Path

    @property
    def place(self) -> str:
        return f"the systemd credential {SECRETS_CREDENTIAL}"

    def read(self) -> Key | None:
        # systemd sees to its rights, and gives the group some for its own access lists.
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise SecretUnusable(
                f"{self.place} cannot be read: {error.strerror}", hint=f"ls -l {quoted(self.path)}"
            ) from error
        return _key_in(content, self.path)

    def make(self) -> Key:
        raise SecretUnusable(f"{self.place} cannot be made by the node", hint=_HOW_CREDENTIAL)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key made of the passphrase that was given at the node's start; None if none was."""

    key: Key | None

    @property
    def place(self) -> str:
        return "the passphrase given at the node's start"

    def read(self) -> Key | None:
        return self.key

    def make(self) -> Key:
        raise SecretUnusable(
            "no passphrase was given at the node's start",
            hint="start the node on a terminal, or with --passphrase-fd N",
        )


_HOW_CREDENTIAL = (
    f"openssl rand -hex 32 | systemd-creds encrypt --name={SECRETS_CREDENTIAL} - FILE, and "
    "LoadCredentialEncrypted= in the unit"
)


def file_or_credential(path: Path, data_dir: Path, environ: Mapping[str, str]) -> KeySource:
    """Return the systemd credential if there is one, else the file."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if directory and (credential := Path(directory, SECRETS_CREDENTIAL)).exists():
        return Credential(credential)
    return KeyFile(path, data_dir)


def derive(passphrase: str, salt: bytes) -> Key:
    """Return the key of a passphrase. Takes about half a second and 128 MiB.

    Raises `InvalidArgument` for an empty passphrase.
    """
    if not passphrase:
        raise InvalidArgument("the passphrase is empty", hint="give one of several words")
    scrypt = Scrypt(salt=salt, length=KEY_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return Key(scrypt.derive(passphrase.encode("utf-8", "surrogateescape")))


def _key_in(content: bytes, path: Path) -> Key:
    """Return the key in a file: 32 bytes, or those in hex. Raises `SecretUnusable`."""
    key = _parsed(content)
    if key is None:
        raise SecretUnusable(
            f"{path} is not a key: it must have 32 bytes, or 64 hexadecimal digits",
            hint=f"restore it; for a new one: openssl rand -hex 32 > {quoted(path)}",
        )
    return key


def _parsed(content: bytes) -> Key | None:
    if len(content) == KEY_BYTES:
        return Key(content)
    # The error would have the content in its text.
    with suppress(ValueError):
        return Key(bytes.fromhex(content.decode("latin-1").strip()))
    return None
