"""The message of `invoke`: from its flag, a file or stdin, as in `curl`."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import termios
from pathlib import Path
from typing import BinaryIO

from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES

STDIN = "-"


def message_of(argument: str | None, data: str | None, file: str | None) -> bytes:
    """Return the message, given in one of the ways or not at all.

    A text that begins with `@` names a file, and `-` always means stdin. Raises `InvalidArgument`
    if it is given in more than one way, cannot be read, is too long for any node, or if a message
    waits in a pipe and nothing says to read it.
    """
    if argument not in (None, STDIN):
        raise InvalidArgument(
            f"unexpected argument {argument!r}",
            hint="pass the message with --data TEXT or --file FILE, or - to read it from stdin",
        )
    if sum(source is not None for source in (argument, data, file)) > 1:
        raise InvalidArgument(
            "the message is given more than once", hint="choose one of --data, --file and -"
        )
    if data is not None and data != STDIN and not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    given = (source for source in (argument, data, file) if source is not None)
    if (source := next(given, None)) is None:
        _check_nothing_waits()
        return b""
    name = source.removeprefix("@") if source is data else source
    if not name:
        raise InvalidArgument("no file name given", hint="--data @FILE or --file FILE; - is stdin")
    if name != STDIN:
        return _read_file(name, source)
    if sys.stdin is None:
        raise InvalidArgument("cannot read the message from stdin, which is closed")
    return _read(sys.stdin.buffer)


def _read_file(name: str, given: str) -> bytes:
    try:
        with Path(name).open("rb") as opened:
            if os.fstat(opened.fileno()).st_size > MAX_MESSAGE_LIMIT_BYTES:
                raise _too_long()
            return _read(opened)
    except OSError as error:
        as_text = f"printf %s {quoted(given)} | plexspaces invoke NAME -"
        raise InvalidArgument(
            f"{name!r} cannot be read: {error.strerror}",
            hint=f"if that is the message itself: {as_text}" if given != name else None,
        ) from error


def _read(source: BinaryIO) -> bytes:
    content = source.read(MAX_MESSAGE_LIMIT_BYTES + 1)
    if len(content) > MAX_MESSAGE_LIMIT_BYTES:
        raise _too_long()
    return content


def _too_long() -> InvalidArgument:
    return InvalidArgument(
        f"the message exceeds the maximum of {MAX_MESSAGE_LIMIT_BYTES} bytes",
        hint="send it in parts",
    )


def _check_nothing_waits() -> None:
    """Refuse to ignore what is in a pipe; it is not read either, because a script may need it."""
    if sys.stdin is None:
        return
    try:
        descriptor = sys.stdin.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
        (waiting,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))
    except (OSError, ValueError):
        # Closed, or not a descriptor of the system.
        return
    if waiting:
        raise InvalidArgument(
            "stdin is a pipe with data in it, but the command was not told to read it",
            hint="plexspaces invoke NAME - to send it, or </dev/null to send an empty message",
        )
