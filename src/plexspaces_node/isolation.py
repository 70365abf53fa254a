"""The isolation levels: which drivers there are, made as the configuration says.

The one list of drivers of the product; what is not in it cannot be chosen. For the node, which
takes one of them, and for `doctor`, which tries them all.
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

    Without `emulation` a level whose machines would be emulated does not work. `environ` replaces
    the process environment, as in `ConfigBootstrap.load`. Looks at nothing.
    """
    vmm = config.firecracker
    image = partial(open_image, config, environ)
    program = str(vmm.binary_path or "firecracker")
    installation = Installation(program, seccomp=not vmm.no_seccomp)
    # Among the machines, so that the next start ends a trial that this one did not live to end.
    trials = config.node.data_dir / "vms"
    usual = VmConfig(vmm.default_vm.vcpus, vmm.default_vm.memory_mib)
    copied = usual if config.node.templates else None
    return (
        FirecrackerDriver(image, installation, scratch=trials),
        QemuDriver(image, emulation=emulation, usual=copied, scratch=trials),
        ProcessDriver(),
    )


def open_image(config: Config, environ: Mapping[str, str] | None = None) -> GuestImage:
    """Return the guest image that the configuration names, or else the user's own.

    `environ` says where a user's own lies. Blocks for some milliseconds. Raises `NotFound`,
    `InvalidArgument` and `WrongState` as `GuestImage.open` and `find_directory` do.
    """
    vmm = config.firecracker
    default = default_directory(os.environ if environ is None else environ)
    directory = find_directory(vmm.kernel_path, vmm.rootfs_path, default)
    return GuestImage.open(directory, generation=link.GENERATION)
