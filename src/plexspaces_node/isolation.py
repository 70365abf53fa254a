"""The isolation levels: every driver of the product, set up from the configuration; the choice.

A node uses one of them; `doctor` tries them all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from plexspaces_node.config import Config
from plexspaces_node.errors import Unsupported
from plexspaces_node.link import frames as link
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.firecracker.driver import FirecrackerDriver
from plexspaces_node.vm.firecracker.host import Installation
from plexspaces_node.vm.image import GuestImage, default_directory, find_directory
from plexspaces_node.vm.process.driver import ProcessDriver
from plexspaces_node.vm.qemu.driver import QemuDriver

_log = logging.getLogger(__name__)


class Make(Protocol):
    """Makes the drivers to choose from; see `make_drivers`."""

    def __call__(self, config: Config, *, emulation: bool) -> Sequence[Driver]: ...


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


async def choose_driver(
    config: Config, given: Driver | None = None, *, make: Make = make_drivers
) -> tuple[Driver, str]:
    """Return the driver for the isolation level asked for, and one line about it.

    `auto` takes the strongest whose probe succeeds without emulation. Raises `Unsupported` with
    the probe's reason and hint when the level asked for does not work here. `make` replaces the
    product's list of drivers.
    """
    level = config.node.isolation
    if given is None and level == "auto":
        return await _choose_strongest(make(config, emulation=False))
    driver = given or _named(level, make(config, emulation=True))
    found = await driver.probe()
    if not found.ok:
        raise Unsupported(
            f"isolation level {driver.name!r} does not work here: {found.reason}",
            hint=found.hint or "plexspaces doctor",
        )
    return driver, f"{driver.capabilities.isolation} ({found.reason})"


async def _choose_strongest(drivers: Sequence[Driver]) -> tuple[Driver, str]:
    passed_over = []
    for driver in drivers:
        found = await driver.probe()
        if not found.ok:
            _log.info("isolation level %s does not work here: %s", driver.name, found.reason)
            passed_over.append(f"{driver.name}: {found.reason}")
            continue
        note = f"{driver.capabilities.isolation} ({found.reason})"
        if driver.name == "process":
            note = f"no microVM on this machine; {note}"
        return driver, note
    raise Unsupported(
        f"no isolation level works here: {'; '.join(passed_over)}", hint="plexspaces doctor"
    )


def _named(level: str, drivers: Sequence[Driver]) -> Driver:
    for driver in drivers:
        if driver.name == level:
            return driver
    raise Unsupported(
        f"isolation level {level!r} is not available in this version",
        hint="plexspaces start-node --node-id my-node --isolation process",
    )
