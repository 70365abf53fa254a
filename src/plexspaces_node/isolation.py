"""The isolation levels: every driver of the product, set up from the configuration.

A node uses one of them; `doctor` tries them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from plexspaces_node.config import Config
from plexspaces_node.link import frames as link
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.firecracker.driver import FirecrackerDriver
from plexspaces_node.vm.firecracker.host import Installation
from plexspaces_node.vm.image import GuestImage, default_directory, find_directory
from plexspaces_node.vm.process.driver import ProcessDriver
from plexspaces_node.vm.qemu.driver import QemuDriver


def make_drivers(
    config: Config, *, emulation: bool = True, environ: Mapping[str, str] | None = None
) -> tuple[Driver, ...]:
    """Make a driver for each level, strongest first: the order in which `auto` tries them.

    Without `emulation`, a level that would emulate its VMs is unavailable. `environ` replaces the
    process environment, as in `ConfigBootstrap.load`. Does not touch the host.
    """
    image = partial(open_image, config, environ)
    program = str(config.firecracker.binary_path or "firecracker")
    installation = Installation(program, seccomp=not config.firecracker.no_seccomp)
    # Beside the bundles, so that the next start cleans up a trial that a crash cut short.
    trials = config.node.data_dir / "vms"
    usual = VmConfig(config.default_vm.vcpus, config.default_vm.memory_mib)
    copied = usual if config.qemu.templates else None
    return (
        FirecrackerDriver(image, installation, scratch=trials),
        QemuDriver(image, emulation=emulation, usual=copied, scratch=trials),
        ProcessDriver(),
    )


def open_image(config: Config, environ: Mapping[str, str] | None = None) -> GuestImage:
    """Return the guest image that the configuration names, or else the user's own.

    `environ` tells where the user's own image is. Blocks for some milliseconds. Raises `NotFound`,
    `InvalidArgument` and `WrongState` as `GuestImage.open` and `find_directory` do.
    """
    default = default_directory(os.environ if environ is None else environ)
    directory = find_directory(config.guest.kernel_path, config.guest.rootfs_path, default)
    return GuestImage.open(directory, generation=link.GENERATION)
