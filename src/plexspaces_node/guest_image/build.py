"""The steps from packages to an image, and how it replaces the previous one."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import plexspaces_node
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported, quoted
from plexspaces_node.guest_image.initrd import make_initrd
from plexspaces_node.guest_image.kernel import read_kernel
from plexspaces_node.guest_image.packages import Package, Tools, fetch, unpack
from plexspaces_node.link import frames as link
from plexspaces_node.programs import AGENT, agent_program, init_program
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.vm.erofs import write_erofs
from plexspaces_node.vm.host.vmm import NO_SPACE
from plexspaces_node.vm.image import INITRD, KERNEL, RECORD, ROOTFS, GuestImage

ARCH = "x86_64"
MIN_MEMORY_MIB = 80
"""The smallest guest in which the probe actor answered; measured, see ``docs/guest.md``."""
STEP_TIMEOUT_S = 300.0
"""The time limit of each program: fetching a kernel over a slow line takes longest."""

_MOUNT_POINTS = ("artifact", "dev", "proc")
"""Directories of the guest's root where `agent/init` and the agent mount the rest."""
_SCRATCH_PREFIX = ".image-"
_SCRATCH_LIFE_S = 24 * 3600.0
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")

Progress = Callable[[str], None]
"""Called with a line before each step."""


class GuestPrograms(NamedTuple):
    """The native programs that are in a guest."""

    agent: Path
    init: Path

    @classmethod
    def built(cls) -> GuestPrograms:
        """Find those of this installation; raises `NotFound`."""
        return cls(agent_program(), init_program())


async def build_image(
    target: Path,
    *,
    progress: Progress,
    environment: BuildEnvironment | None = None,
    programs: GuestPrograms | None = None,
) -> GuestImage:
    """Build an image in the directory `target` and return it; replaces the one that is there.

    Running VMs keep the files that they booted from. If anything fails, or the caller is cancelled,
    `target` is unchanged and only fetched packages are left, in the cache. Raises `Unsupported` for
    a missing tool or another architecture, `NotFound` if the agent is not built, `Unavailable` if
    packages cannot be fetched or the disk is full, `InvalidArgument` for a directory that cannot be
    written.
    """
    if platform.machine() != ARCH:
        raise Unsupported(f"guest images are built on {ARCH} only, this is {platform.machine()}")
    environment = environment or BuildEnvironment.here()
    tools = Tools(environment.search, timeout_s=STEP_TIMEOUT_S)
    for name in _TOOLS:
        tools.find(name)
    programs = programs or GuestPrograms.built()
    async with _scratch(target.absolute()) as scratch:
        made, unpacked = (scratch / name for name in ("image", "packages"))
        for directory in (made, unpacked):
            directory.mkdir(mode=0o755)
        progress("fetching the kernel")
        packages = await fetch(tools, environment.cache.with_name("image-packages"))
        progress("unpacking it")
        for package in packages:
            await unpack(tools, package, unpacked)
        progress("writing the image")
        await in_thread(_write, unpacked, programs, made)
        await in_thread(_seal, made, packages, programs)
        await in_thread(_install, made, target.absolute())
    return GuestImage.open(target, generation=link.GENERATION)


@asynccontextmanager
async def _scratch(target: Path) -> AsyncIterator[Path]:
    """Create a temporary directory on the target's file system."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=target.parent))
    except OSError as error:
        raise InvalidArgument(
            f"the image cannot be written to {target}: {error.strerror}",
            hint="choose another directory: plexspaces image build --dir DIR",
        ) from error
    try:
        await in_thread(_remove_abandoned, target.parent)
        yield made
    except OSError as error:
        file = error.filename or target.parent
        full = error.errno in NO_SPACE
        raise Unavailable(
            f"the image cannot be built: {file}: {error.strerror}",
            hint=f"it needs 300 MiB of free space: df -h {quoted(target.parent)}" if full else None,
        ) from error
    finally:
        await in_thread(shutil.rmtree, made, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    # Left by builds that were killed: no build takes this long.
    oldest = time.time() - _SCRATCH_LIFE_S
    for path in parent.glob(f"{_SCRATCH_PREFIX}*"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)


def _write(unpacked: Path, programs: GuestPrograms, made: Path) -> None:
    (made / KERNEL).write_bytes(read_kernel(unpacked))
    (made / INITRD).write_bytes(make_initrd(programs.init.read_bytes(), unpacked))
    write_erofs(made / ROOTFS, {AGENT: programs.agent}, _MOUNT_POINTS, mode=0o555)


def _seal(made: Path, packages: tuple[Package, ...], programs: GuestPrograms) -> None:
    versions = {"agent": agent_digest(programs), "plexspaces-node": plexspaces_node.__version__}
    GuestImage.seal(
        made,
        generation=link.GENERATION,
        min_memory_mib=MIN_MEMORY_MIB,
        made_of=versions | {package.name: package.version for package in packages},
    )


def agent_digest(programs: GuestPrograms | None = None) -> str:
    """Return 12 digits that change with the guest's programs; blocks for some milliseconds.

    Raises `NotFound` if this installation has none.
    """
    total = hashlib.sha256()
    for program in programs or GuestPrograms.built():
        total.update(program.read_bytes())
    return total.hexdigest()[:12]


def _install(made: Path, target: Path) -> None:
    for name in (KERNEL, INITRD, ROOTFS, RECORD):
        (made / name).chmod(0o644)
        _sync(made / name)
    with suppress(OSError):
        # The usual case: nothing is there, or an empty directory.
        made.rename(target)
        return
    try:
        # Without its record it is not an image, so a half-replaced one is never booted.
        (target / RECORD).unlink(missing_ok=True)
        for name in (KERNEL, INITRD, ROOTFS, RECORD):
            (made / name).replace(target / name)
    except OSError as error:
        raise InvalidArgument(
            f"the image cannot be written to {target}: {error.strerror}",
            hint="choose another directory: plexspaces image build --dir DIR",
        ) from error


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
