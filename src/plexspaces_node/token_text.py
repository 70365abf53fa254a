"""What a token's secret looks like: recognised by scanners for leaked ones, and by its checksum.

    plx_ ID SECRET CHECK      4 + 8 + 43 + 6 characters, letters and digits after the prefix

The id is no secret: it is in listings, so that a token that was found somewhere can be revoked.
"""

from __future__ import annotations

import secrets
import zlib

from plexspaces_node.errors import InvalidArgument

VARIABLE = "PLEXSPACES_TOKEN"
FILE_VARIABLE = "PLEXSPACES_TOKEN_FILE"
"""The variables of a client's environment: its token, or a file that only its owner may read."""

PREFIX = "plx_"
ID_LENGTH = len(PREFIX) + 8
LENGTH = ID_LENGTH + 43 + 6

SECRET_BYTES = 32

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_DIGITS, _SECRET_DIGITS, _CHECK_DIGITS = 8, 43, 6


def new_secret() -> str:
    """Return a new secret, of 256 random bits besides those of its id."""
    id_ = secrets.randbelow(len(_DIGITS) ** _ID_DIGITS)
    random = int.from_bytes(secrets.token_bytes(SECRET_BYTES))
    body = PREFIX + _in_digits(id_, _ID_DIGITS) + _in_digits(random, _SECRET_DIGITS)
    return body + _check_of(body)


def check_secret(text: str, *, source: str) -> None:
    """Raise `InvalidArgument` for a text that is no token; the text is not repeated.

    `source` says where it came from.
    """
    if not text.startswith(PREFIX):
        fault = f"does not begin with {PREFIX}"
    elif len(text) != LENGTH:
        fault = f"has {len(text)} characters, and a token has {LENGTH}"
    elif text[-_CHECK_DIGITS:] != _check_of(text[:-_CHECK_DIGITS]):
        fault = "has a wrong checksum: a character is mistyped"
    else:
        return
    raise InvalidArgument(
        f"what {source} has is not a token: it {fault}",
        hint="copy all of what plexspaces token create printed",
    )


def in_checked_digits(secret: bytes, prefix: str) -> str:
    """Return a secret of `SECRET_BYTES` as text with a prefix and a checksum."""
    body = prefix + _in_digits(int.from_bytes(secret), _SECRET_DIGITS)
    return body + _check_of(body)


def checked_digits(text: str, prefix: str) -> bytes | None:
    """Return the secret in a text of `in_checked_digits`, None for another text."""
    body, check = text[:-_CHECK_DIGITS], text[-_CHECK_DIGITS:]
    digits = body.removeprefix(prefix)
    if len(digits) != _SECRET_DIGITS or body == digits or check != _check_of(body):
        return None
    number = 0
    for digit in digits:
        if digit not in _DIGITS:
            return None
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    return number.to_bytes(SECRET_BYTES) if number < 256**SECRET_BYTES else None


def _check_of(body: str) -> str:
    return _in_digits(zlib.crc32(body.encode("utf-8", "surrogateescape")), _CHECK_DIGITS)


def _in_digits(number: int, length: int) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text
