"""The key of the tokens' hashes: in a file of its own, so that the registry alone proves nothing.

A node has it from its first token on. As long as it does, callers have to say who they are.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from plexspaces_node.errors import AlreadyExists, InvalidArgument, quoted
from plexspaces_node.private_file import read_private, replace, write_new

KEY_BYTES = 32
_CHECK_BYTES = 8


class TokenKey:
    """The key in a file, or none yet.

    Attributes:
        exists: whether there is one.
        check: tells keys apart, and nothing about them; b"" without.
    """

    def __init__(self, path: Path) -> None:
        """Read it if it is there; blocks for one small file.

        Raises `InvalidArgument` for one that others may read or that is damaged.
        """
        self._path = path
        self._key = b""
        self.exists = False
        self.check = b""
        if path.exists():
            self._read()

    def __repr__(self) -> str:
        return f"<TokenKey {self._path} {'' if self.exists else 'missing'}>"

    def make(self) -> None:
        """Make it, if there is none; survives a power loss. Blocks.

        Raises `InvalidArgument` if it cannot be written.
        """
        if self.exists:
            return
        with suppress(AlreadyExists):
            write_new(self._path, os.urandom(KEY_BYTES))
        self._read()

    def adopt(self, key: bytes) -> None:
        """Use the key of the cluster in place of one's own; survives a power loss. Blocks.

        Raises `InvalidArgument` if it cannot be written, or is none.
        """
        if len(key) != KEY_BYTES:
            raise InvalidArgument(f"a key of tokens has {KEY_BYTES} bytes, not {len(key)}")
        if key != self._key:
            replace(self._path, key)
            self._read()

    def read(self) -> bytes:
        """Return the key for who passes it on, encrypted; b"" without one."""
        return self._key

    def hash(self, secret: bytes) -> bytes:
        """Return the hash of a secret."""
        return hashlib.blake2b(secret, digest_size=32, key=self._key).digest()

    def _read(self) -> None:
        key = read_private(self._path, what="the key of the tokens")
        if len(key) != KEY_BYTES:
            raise InvalidArgument(
                f"the key of the tokens {str(self._path)!r} is damaged: it has {len(key)} bytes",
                hint=f"restore it, or: rm {quoted(self._path)}, and rotate every token",
            )
        self._key, self.exists = key, True
        self.check = self.hash(b"the key of the tokens")[:_CHECK_BYTES]
