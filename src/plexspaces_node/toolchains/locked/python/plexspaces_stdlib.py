"""Compiles the standard library: run by the interpreter that applications run on, while it builds.

Writes to `made` beside itself, and ends then: no component is wanted. The form of the file is that
of `plexspaces_actor._late`.
"""

import json
import marshal
import os
import warnings
import zlib
from collections.abc import Iterator

TOP = "/python"
"""Where the compiler mounts it."""

LEFT_OUT = frozenset(
    {
        "__pycache__",
        "config-3.14-wasm32-wasi",
        "ctypes",
        "curses",
        "ensurepip",
        "idlelib",
        "pydoc_data",
        "site-packages",
        "test",
        "tkinter",
        "turtle.py",
        "turtledemo",
        "venv",
    }
)
"""What cannot work in an instance, and no other module imports."""


def make(top: str, made: str) -> None:
    """Write the byte code of all modules below a directory."""
    index, content = {}, []
    begin = 0
    for path in modules(top):
        with open(path, "rb") as file:
            source = file.read()
        code = compile(source, path, "exec", dont_inherit=True)
        content.append(zlib.compress(marshal.dumps(code), 9))
        name = path[len(top) + 1 : -len(".py")].removesuffix("/__init__").replace("/", ".")
        index[path] = ("code", name, begin, begin + len(content[-1]))
        begin += len(content[-1])
    head = json.dumps(index).encode()
    with open(made, "wb") as file:
        file.write(len(head).to_bytes(8, "big") + head + b"".join(content))


def modules(top: str) -> Iterator[str]:
    """Yield the paths of all modules, in a fixed order."""
    for here, directories, files in os.walk(top):
        directories[:] = sorted(name for name in directories if name not in LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".py") and name not in LEFT_OUT:
                yield f"{here}/{name}"


with warnings.catch_warnings(action="ignore"):
    make(TOP, f"{os.path.dirname(__file__)}/made")
raise SystemExit("made")
