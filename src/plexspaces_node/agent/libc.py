"""Calls of the C library for which Python has no function, with their failure as an `OSError`."""

from __future__ import annotations

import ctypes
import os


def call(name: str, *arguments: object, about: str) -> None:
    """Call a function that answers 0 when all is well; raises `OSError`, which names `about`."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), about)
