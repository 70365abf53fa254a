"""The isolation levels: which drivers there are, made as the configuration says.

The one list of drivers of the product; what is not in it cannot be chosen. For the node, which
takes one of them, and for `doctor`, which tries them all.
"""

from __future__ import annotations

import os
from functools import partial

from plexspaces_node.config import Config
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.firecracker import FirecrackerDriver
from plexspaces_node.vm.firecracker_host import Installation
from plexspaces_node.vm.image import GuestImage, default_directory, find_directory
from plexspaces_node.vm.process import ProcessDriver
from plexspaces_node.vm.qemu import QemuDriver
from plexspaces_node.wire import link


def make_drivers(config: Config, *, emulation: bool = True) -> tuple[Driver, ...]:
    """Make a driver for each level, strongest first: the order in which `auto` tries them.

    Without `emulation` a level whose machines would be emulated does not work. Looks at nothing.
    """
    image = partial(open_image, config)
    return (_firecracker(config), QemuDriver(image, emulation=emulation), ProcessDriver())


def _firecracker(config: Config) -> FirecrackerDriver:
    vmm = config.firecracker
    program = str(vmm.binary_path or "firecracker")
    installation = Installation(program, seccomp=not vmm.no_seccomp)
    image = partial(open_image, config)
    # Among the machines, so that the next start ends a trial that this one did not live to end.
    return FirecrackerDriver(image, installation, scratch=config.node.data_dir / "vms")


def open_image(config: Config) -> GuestImage:
    """Return the guest image that the configuration names, or else the user's own.

    Blocks for some milliseconds. Raises `NotFound`, `InvalidArgument` and `WrongState` as
    `GuestImage.open` and `find_directory` do.
    """
    vmm = config.firecracker
    directory = find_directory(vmm.kernel_path, vmm.rootfs_path, default_directory(os.environ))
    return GuestImage.open(directory, generation=link.GENERATION)
