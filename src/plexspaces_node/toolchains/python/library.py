"""The file with a Python component's late imports, which `plexspaces_actor._late` reads.

It contains the standard library, which is compiled once for each version of the compiler and kept
in the build cache; the project's modules and those in its ``vendor``; and the time zones of
`tzdata`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from plexspaces_node.errors import Internal, Unsupported
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.places import CACHE_HINT, writing
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.project import Source
from plexspaces_node.toolchains.python.componentize import (
    INSTALL,
    TESTED_VERSION,
    actor_world,
    arguments,
    interpreter_variables,
)
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compiler

VENDOR = "vendor"
"""Directory of the project for packages in pure Python: `pip install --target vendor NAME`."""

ZONES = "tzdata"

_MAKER = "plexspaces_stdlib"
_MADE = "made"
_MACHINE_CODE = frozenset({".so", ".pyd", ".dylib", ".dll"})
_USELESS = frozenset({".pyc", ".pyo", ".pyi", ".pyx", ".pxd", ".c", ".h", ".typed"})
_WRITTEN_BY_PIP = frozenset({"METADATA", "entry_points.txt", "top_level.txt"})
_HEAD = 8
_LEVEL = 9


@dataclass(slots=True)
class Library:
    """The files stored so far: see `plexspaces_actor._late.Kept` for the index."""

    index: dict[str, tuple[str, str, int, int]] = field(default_factory=dict)
    content: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, path: str, kind: str, module: str, data: bytes = b"") -> None:
        """Store one file, unless there is one with that path."""
        if path not in self.index:
            packed = zlib.compress(data, _LEVEL) if data else b""
            self.index[path] = (kind, module, self.length, self.length + len(packed))
            self.content.append(packed)
            self.length += len(packed)

    def file(self) -> bytes:
        """Return the finished file's bytes."""
        head = json.dumps(self.index).encode()
        return b"".join([len(head).to_bytes(_HEAD, "big"), head, *self.content])


def opened(file: bytes) -> Library:
    """Return the library in a file."""
    end = _HEAD + int.from_bytes(file[:_HEAD], "big")
    index = {path: tuple(kept) for path, kept in json.loads(file[_HEAD:end]).items()}
    return Library(index, [file[end:]], len(file) - end)


def keep(library: Library, sources: Iterable[Source], mount: str) -> None:
    """Store the modules of one directory, and the data of its packages, under the path `mount`."""
    found = [(PurePosixPath(source.relative), source.path) for source in sources]
    packages = {relative.parent for relative, _ in found if relative.suffix == ".py"}
    for relative, path in found:
        at = f"{mount}/{relative}"
        if relative.suffix == ".py" and "." not in "".join(relative.with_suffix("").parts):
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            library.add(at, "source", module, path.read_bytes() or b"\n")
        elif relative.suffix in _MACHINE_CODE:
            library.add(at, "compiled", _package_of(relative))
        elif _is_data(relative, packages):
            library.add(at, "data", "", path.read_bytes())
    for directory in sorted(_directories(packages)):
        if directory / "__init__.py" not in {relative for relative, _ in found}:
            library.add(f"{mount}/{directory}", "directory", ".".join(directory.parts))


def _package_of(relative: PurePosixPath) -> str:
    # A module at the top is named NAME.cpython-311-x86_64-linux-gnu.so; wheels put the libraries
    # that a package is linked with into NAME.libs.
    return relative.parts[0].partition(".")[0]


def _is_data(relative: PurePosixPath, packages: set[PurePosixPath]) -> bool:
    if relative.parent.suffix == ".dist-info":
        return relative.name in _WRITTEN_BY_PIP
    inside = any(parent in packages for parent in relative.parents if parent.parts)
    return inside and relative.suffix not in _USELESS


def _directories(packages: set[PurePosixPath]) -> set[PurePosixPath]:
    whole = {part for package in packages for part in (package, *package.parents)}
    return {part for part in whole if part.parts and "." not in "".join(part.parts)}


def zones() -> Path:
    """Return the directory of the package `tzdata`; raises `Unsupported` if it is missing."""
    found = importlib.util.find_spec(ZONES)
    if found is None or found.origin is None:
        raise Unsupported("building python needs tzdata, which is not installed", hint=INSTALL)
    return Path(found.origin).parent


def zone_sources(directory: Path) -> Iterator[Source]:
    """Yield the files of `tzdata`, as they lie in the directory above it."""
    for here, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(here, name)
            if path.suffix != ".pyc":
                yield Source(path, path.relative_to(directory.parent).as_posix())


# ---- the standard library --------------------------------------------------------------------


def standard_library(environment: BuildEnvironment) -> Path:
    """Return the path of the compiled standard library: one file for each compiler. Blocks."""
    made_by = (_maker() / f"{_MAKER}.py").read_bytes() + TESTED_VERSION.encode()
    digest = hashlib.sha256(made_by).hexdigest()
    return environment.cache.with_name("python") / f"{digest[:16]}.library"


async def make_standard_library(
    compiler: Compiler, environment: BuildEnvironment, *, progress: Callable[[str], None]
) -> None:
    """Compile the standard library with the interpreter of applications, unless it is cached.

    Two processes can run it at the same time; a failure leaves nothing. Raises `Internal` if the
    compiler fails, `InvalidArgument` for a cache that cannot be written, and what `run` raises.
    """
    kept = await in_thread(standard_library, environment)
    if kept.is_file():
        return
    progress("python: compiling the standard library, once for this user")
    with writing(f"the cache {kept.parent}", hint=CACHE_HINT):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".library-", dir=kept.parent))
    try:
        mount = scratch / "mount"
        await in_thread(shutil.copytree, _maker(), mount)
        finished = await run(
            arguments(compiler, actor_world(), _MAKER, [mount], scratch / "none.wasm"),
            cwd=scratch,
            variables=interpreter_variables(environment, scratch),
            timeout_s=environment.timeout_s,
        )
        made = mount / _MADE
        if not made.is_file():
            words = finished.output.strip()
            raise Internal(f"the standard library does not compile:\n{words}", hint=INSTALL)
        made.replace(kept)
    finally:
        await in_thread(shutil.rmtree, scratch, ignore_errors=True)


def _maker() -> Path:
    return shipped("toolchains/locked/python")
