"""The steps from packages to an image, and how it takes the place of the one before."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from plexspaces_node.agent.swap import MODULES as SWAP_MODULES
from plexspaces_node.build.environment import BuildEnvironment
from plexspaces_node.build.image.filesystem import make_filesystem
from plexspaces_node.build.image.initrd import make_initrd, modules_of
from plexspaces_node.build.image.kernel import extract_vmlinux
from plexspaces_node.build.image.packages import Package, Tools, fetch, unpack
from plexspaces_node.build.image.root import Interpreter, make_root
from plexspaces_node.build.shipped import shipped
from plexspaces_node.build.threads import in_thread
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.vm.image import INITRD, KERNEL, RECORD, ROOTFS, GuestImage
from plexspaces_node.wire import link

ARCH = "x86_64"
MIN_MEMORY_MIB = 96
"""The least with which the probe actor was seen to answer; measured, see ``docs/guest.md``."""
STEP_TIMEOUT_S = 300.0
"""For any one program: fetching a kernel over a slow line is the longest."""

_SWAP = ("lzo-rle", "zsmalloc", "zram")
"""What `agent.swap` loads, each after those it needs."""
_LABEL = "plexspaces"
_SCRATCH_PREFIX = ".image-"
_SCRATCH_LIFE_S = 24 * 3600.0
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb", "mke2fs", "debugfs", "ldd")

Progress = Callable[[str], None]
"""Called with a line before each step."""


async def build_image(
    target: Path, *, progress: Progress, environment: BuildEnvironment | None = None
) -> GuestImage:
    """Make an image in the directory `target` and return it; replaces the one that is there.

    Machines that run keep the files they booted from. When anything fails, or the caller is
    cancelled, `target` is as it was before and nothing else is left but fetched packages in the
    cache. Raises `Unsupported` for a missing tool or another architecture, `Unavailable` when
    packages cannot be had or the disk is full, `InvalidArgument` for a directory that cannot be
    written.
    """
    if platform.machine() != ARCH:
        raise Unsupported(f"guest images are made on {ARCH} only, and this is {platform.machine()}")
    around = environment or BuildEnvironment.here()
    tools = Tools(around.search, timeout_s=STEP_TIMEOUT_S)
    for name in _TOOLS:
        tools.find(name)
    async with _scratch(target.absolute()) as scratch:
        made = scratch / "image"
        made.mkdir(mode=0o755)
        progress("fetching the kernel and busybox")
        packages = await fetch(tools, around.cache.with_name("image-packages"))
        progress("unpacking them")
        unpacked = scratch / "packages"
        unpacked.mkdir()
        for package in packages:
            await unpack(tools, package, unpacked)
        await in_thread(_write_boot_files, unpacked, made)
        progress("copying Python and the agent")
        tree = scratch / "root"
        versions = await make_root(tools, Interpreter.here(), tree)
        await in_thread(_write_swap_modules, unpacked, tree)
        progress("writing the root file system")
        await make_filesystem(tools, tree, made / ROOTFS, label=_LABEL)
        await in_thread(_seal, made, packages, versions)
        await in_thread(_install, made, target.absolute())
    return GuestImage.open(target, generation=link.GENERATION)


@asynccontextmanager
async def _scratch(target: Path) -> AsyncIterator[Path]:
    """Give a directory on the target's file system, gone afterwards."""
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
        raise Unavailable(
            f"the image cannot be made in {target.parent}: {error.strerror}",
            hint=f"is there room for a few hundred MiB? df -h {target.parent}",
        ) from error
    finally:
        await in_thread(shutil.rmtree, made, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    # Of builds that were killed: no build lasts this long.
    oldest = time.time() - _SCRATCH_LIFE_S
    for path in parent.glob(f"{_SCRATCH_PREFIX}*"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)


def _write_boot_files(unpacked: Path, made: Path) -> None:
    kernels = sorted((unpacked / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise InvalidArgument(f"the kernel's packages hold {len(kernels)} kernels, not one")
    (made / KERNEL).write_bytes(extract_vmlinux(kernels[0].read_bytes()))
    init = (shipped("guest") / "init").read_bytes()
    busybox = (unpacked / "bin" / "busybox").read_bytes()
    (made / INITRD).write_bytes(make_initrd(init, busybox, unpacked))


def _write_swap_modules(unpacked: Path, tree: Path) -> None:
    directory = tree / SWAP_MODULES.lstrip("/")
    directory.mkdir(parents=True)
    for name, content in modules_of(unpacked, _SWAP):
        (directory / name).write_bytes(content)


def _seal(made: Path, packages: tuple[Package, ...], versions: dict[str, str]) -> None:
    GuestImage.seal(
        made,
        generation=link.GENERATION,
        min_memory_mib=MIN_MEMORY_MIB,
        made_of=versions | {package.name: package.version for package in packages},
    )


def _install(made: Path, target: Path) -> None:
    for name in (KERNEL, INITRD, ROOTFS, RECORD):
        (made / name).chmod(0o644)
        _sync(made / name)
    with suppress(OSError):
        # The usual case: nothing is there, or an empty directory.
        made.rename(target)
        return
    try:
        # Without its record an image is none, so that a half-replaced one is never booted.
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
