"""A WebAssembly file in the client: whether it looks like one, and its digest.

These checks save a useless upload. The node decides whether the artifact can run: only the first
bytes are read here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, quoted

_WASM_MAGIC = b"\0asm"
_HEADER_BYTES = 8

_SOURCES = {
    ".py": "Python source",
    ".rs": "Rust source",
    ".ts": "TypeScript source",
    ".js": "JavaScript source",
    ".go": "Go source",
}

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"\x7fELF",
        "a native program or a compiled artifact (ELF)",
        "deploy the .wasm file it was compiled from",
    ),
    (b"(module", "WebAssembly text", "wasm-tools parse FILE.wat -o FILE.wasm"),
    (b"(component", "WebAssembly text", "wasm-tools parse FILE.wat -o FILE.wasm"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first: gunzip"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip"),
    (b"!<arch>", "a library of object files", "link it to a .wasm file first"),
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """The bytes of a WebAssembly file and their SHA-256."""

    data: bytes = field(repr=False)
    digest: str

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        return len(self.data)


def check_wasm(wasm: Path | bytes) -> int:
    """Return the size in bytes of what looks like WebAssembly.

    Raises `InvalidArgument` for a path that cannot be read, and for other content, with a
    description of it. Reads at most a few bytes.
    """
    if isinstance(wasm, bytes):
        _check_header("the artifact", "", wasm[: _HEADER_BYTES * 2])
        return len(wasm)
    try:
        if wasm.is_dir():
            raise InvalidArgument(
                f"{str(wasm)!r} is a directory, not a WebAssembly file",
                hint=f"if it is a project: plexspaces deploy {quoted(wasm)}",
            )
        size_bytes = wasm.stat().st_size
        if not wasm.is_file():
            raise InvalidArgument(f"{str(wasm)!r} is not a regular file")
        with wasm.open("rb") as file:
            header = file.read(_HEADER_BYTES * 2)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"there is no file {str(wasm)!r}", hint="pass the path of a .wasm file"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"{str(wasm)!r} cannot be read: {reason}") from error
    _check_header(repr(str(wasm)), wasm.suffix.lower(), header, build=quoted(wasm.parent))
    return size_bytes


def read_artifact(wasm: Path | bytes) -> Artifact:
    """Read and hash a file that `check_wasm` accepted; blocks for as long as that takes.

    Raises `InvalidArgument` if it has become unreadable meanwhile.
    """
    try:
        data = wasm if isinstance(wasm, bytes) else wasm.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{str(wasm)!r} cannot be read: {error.strerror}") from error
    return Artifact(data=data, digest=hashlib.sha256(data).hexdigest())


def _check_header(what: str, suffix: str, header: bytes, *, build: str = ".") -> None:
    if not header:
        raise InvalidArgument(f"{what} is empty", hint="build it again: plexspaces build")
    if header.startswith(_WASM_MAGIC):
        if len(header) < _HEADER_BYTES:
            raise InvalidArgument(
                f"{what} is truncated: it ends after {len(header)} bytes",
                hint="build it again: plexspaces build",
            )
        return
    if suffix in _SOURCES:
        raise InvalidArgument(
            f"{what} is {_SOURCES[suffix]}, not WebAssembly",
            hint=f"build it first: plexspaces build {build}",
        )
    for magic, kind, hint in _FOREIGN:
        if header.lstrip().startswith(magic):
            raise InvalidArgument(f"{what} is {kind}, not WebAssembly", hint=hint)
    raise InvalidArgument(
        f"{what} is not WebAssembly: it starts with {header[:4].hex(' ')}, not 00 61 73 6d",
        hint="pass the .wasm file that plexspaces build or your compiler wrote",
    )
