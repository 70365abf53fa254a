"""The programs of a checkout: from the user's cache, or built by cargo into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from native_build import cargo as rust
from native_build.cache import Cache, toolchain_digest
from native_build.faults import Fault
from native_build.progress import Teller, follow
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.programs import INIT, PROGRAMS, programs_cache, source_digest

FROM_NOTHING_CPU_S = 580.0
"""How long a first build takes on one core, measured; it is used to tell people how long to
wait."""
_USEFUL_CORES = 6


def say(what: str) -> None:
    """Tell the user on standard error."""
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def package(name: str) -> tuple[str, ...]:
    """Return cargo's arguments for a program.

    The first program of a guest is a workspace of its own: its Cargo.toml says why.
    """
    return (*(("--manifest-path", "init/Cargo.toml") if name == INIT else ()), "-p", name)


def programs(root: Path, *, may_install: bool, told: Callable[[str], None] = say) -> Path:
    """Return the directory of the programs built from the current sources. Blocks.

    With `may_install` a missing compiler is installed if possible. Raises `Fault`.
    """
    try:
        cache = Cache(programs_cache())
    except PlexSpacesError as error:
        raise Fault(error.message, error.hint) from error
    sources = source_digest(root)
    try:
        toolchain = rust.find(root / "agent")
    except Fault:
        if kept := _of_any_toolchain(cache, sources):
            return kept
        if not may_install:
            raise
        toolchain = rust.find_or_install(root / "agent", told)
    digest = toolchain_digest(toolchain.identity)
    if kept := cache.find(sources, digest):
        return kept
    with cache.alone(told):
        # Another build may have finished it while this one waited.
        return cache.find(sources, digest) or _build(root, toolchain, cache, sources, told)


def _of_any_toolchain(cache: Cache, sources: str) -> Path | None:
    found = (path.name.partition("-")[2] for path in cache.directory.glob(f"{sources}-*"))
    return next((kept for name in found if (kept := cache.find(sources, name))), None)


def _build(
    root: Path, toolchain: rust.Cargo, cache: Cache, sources: str, told: Callable[[str], None]
) -> Path:
    digest = toolchain_digest(toolchain.identity)
    target = cache.target(digest)
    made = target / rust.TARGET / "release"
    cores = min(os.cpu_count() or 1, _USEFUL_CORES)
    estimate_s = None if made.is_dir() else round(FROM_NOTHING_CPU_S / cores / 30) * 30.0
    told(f"building {', '.join(PROGRAMS)} with {toolchain.version.partition(' (')[0]}")
    teller = Teller(estimate_s)
    try:
        # One after the other: built together, what several use would get the features of all.
        for number, name in enumerate(PROGRAMS, 1):
            # Cargo compares times, and another checkout that shares the directory may have built
            # from newer files: what it made of this package is not of these sources.
            follow(
                toolchain.command("clean", *package(name)),
                cwd=root / "agent",
                variables=toolchain.variables(target),
                told=teller.of(name),
            )
            follow(
                toolchain.command("build", *package(name)),
                cwd=root / "agent",
                variables=toolchain.variables(target),
                told=teller.of(f"{name} ({number} of {len(PROGRAMS)})"),
            )
    finally:
        teller.end()
    if source_digest.__wrapped__(root) != sources:
        raise Fault("the sources of the agent changed while they were compiled", "scripts/agent")
    kept = cache.store(sources, digest, made, {"toolchain": toolchain.version})
    size = sum((kept / name).stat().st_size for name in PROGRAMS)
    told(f"built in {teller.elapsed_s:.0f} s, {size / 1e6:.0f} MB in {kept}")
    return kept
