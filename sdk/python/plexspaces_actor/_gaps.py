"""Functions of the standard library that this interpreter lacks, because it has no OpenSSL."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any


def fill() -> None:
    """Add them where they are missing."""
    library: Any = hashlib
    if not hasattr(library, "pbkdf2_hmac"):
        library.pbkdf2_hmac = pbkdf2_hmac
        library.__all__ += ("pbkdf2_hmac",)


def pbkdf2_hmac(
    hash_name: str, password: bytes, salt: bytes, iterations: int, dklen: int | None = None
) -> bytes:
    """Derive a key as defined in RFC 8018, like `hashlib.pbkdf2_hmac`."""
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    keyed = hmac.new(bytes(password), None, hash_name)
    size = keyed.digest_size
    length = size if dklen is None else dklen
    if length < 1:
        raise ValueError("key length must be greater than 0.")
    derived = b""
    while len(derived) < length:
        block = (len(derived) // size + 1).to_bytes(4, "big")
        last = _digest(keyed, bytes(salt) + block)
        whole = int.from_bytes(last, "big")
        for _ in range(iterations - 1):
            last = _digest(keyed, last)
            whole ^= int.from_bytes(last, "big")
        derived += whole.to_bytes(size, "big")
    return derived[:length]


def _digest(keyed: hmac.HMAC, message: bytes) -> bytes:
    one = keyed.copy()
    one.update(message)
    return one.digest()
