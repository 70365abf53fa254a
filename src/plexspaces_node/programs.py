"""Where the native programs are: a VM's agent, a guest's first program, the compiler of artifacts.

An installed wheel has them in the package. In a checkout ``scripts/agent`` builds them and keeps
them in the user's cache under the digest of their sources. This module defines that digest and the
layout of the cache. The build reads it before any package is installed:

    CACHE/plexspaces/agent/
      SOURCES-TOOLCHAIN/   plexspaces-agent, plexspaces-compile, build.json
      target/              what cargo keeps between builds

It does not know how they are built or started, and imports only the standard library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, NotFound, quoted

AGENT = "plexspaces-agent"
COMPILER = "plexspaces-compile"
INIT = "plexspaces-init"
"""The first program of a guest; it does nothing anywhere else."""
PROGRAMS = (AGENT, COMPILER, INIT)

PACKAGE = Path(__file__).parent

_BUILD = "scripts/agent"
_REINSTALL = "pip install --force-reinstall plexspaces-node"
_DIGEST_LENGTH = 16
# The files that cargo reads: tests and fuzz targets become other programs.
_INGREDIENTS = (("agent", (".rs", ".toml", ".lock", ".proto")), ("wit", (".wit",)))
_OTHER_PROGRAMS = {"target", "tests", "benches", "examples", "fuzz"}


def agent_program() -> Path:
    """Return the program that runs in every VM; blocks while it looks at the disk.

    Raises `NotFound`, with the command that helps, if it is not built or not installed.
    """
    return find_program(AGENT)


def compiler_program() -> Path:
    """Return the program that checks and compiles artifacts; see `agent_program`."""
    return find_program(COMPILER)


def init_program() -> Path:
    """Return the first program of every guest; see `agent_program`."""
    return find_program(INIT)


def find_program(
    name: str, *, package: Path = PACKAGE, variables: Mapping[str, str] = os.environ
) -> Path:
    """Return a program of this installation; `package` is the directory of this package.

    Raises what `agent_program` raises, and `InvalidArgument` if there is no directory for a cache.
    """
    carried = package / "bin" / name
    if carried.is_file():
        return carried
    root = checkout_of(package)
    if root is None:
        raise NotFound(f"the program {carried} is missing from this installation", hint=_REINSTALL)
    kept = programs_cache(variables)
    sources = source_digest(root)
    built = [path for path in kept.glob(f"{sources}-*/{name}") if os.access(path, os.X_OK)]
    if not built:
        raise NotFound(
            f"{name} of the sources in {root / 'agent'} is not built: "
            f"{kept} holds none of digest {sources}",
            hint=f"cd {quoted(root)} && {_BUILD}",
        )
    # Several toolchains may have built the same sources: take the one built or used last.
    newest = max(built, key=lambda path: path.parent.stat().st_mtime_ns)
    with suppress(OSError):
        # Marks it as used: a later build removes programs that were not used for long.
        os.utime(newest.parent)
    return newest


def checkout_of(package: Path = PACKAGE) -> Path | None:
    """Return the root of the checkout that contains a package; None if the package is installed."""
    root = package.parent.parent
    return root if (root / "agent" / "Cargo.toml").is_file() else None


def programs_cache(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of programs built from checkouts; it may not exist."""
    return cache_home(variables) / "plexspaces" / "agent"


def cache_home(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the user's directory for caches; raises `InvalidArgument` if there is none."""
    named = Path(variables.get("XDG_CACHE_HOME", ""))
    # The XDG base directory specification tells programs to ignore a relative path.
    if named.is_absolute():
        return named
    try:
        return Path.home() / ".cache"
    except RuntimeError as exc:
        raise InvalidArgument(
            "there is no home directory for the build cache",
            hint="set XDG_CACHE_HOME to a directory you can write to",
        ) from exc


@cache
def source_digest(root: Path) -> str:
    """Return the digest of all the files in a checkout that the programs are built from.

    Computed once per checkout and process, so that a node keeps the programs it started with.
    """
    digest = hashlib.sha256()
    for path in sorted(_sources(root)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _sources(root: Path) -> Iterable[Path]:
    for place, endings in _INGREDIENTS:
        for directory, names, files in os.walk(root / place):
            names[:] = [name for name in names if name not in _OTHER_PROGRAMS]
            for name in files:
                if name.endswith(endings) and not name.startswith("."):
                    yield Path(directory, name)
