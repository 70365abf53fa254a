"""The steps that start a Firecracker process and its VM: files, process, API, in this order.

The driver knows which step failed and how to undo it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.drive import SLOT_BYTES
from plexspaces_node.vm.firecracker import api as api
from plexspaces_node.vm.firecracker.api import ApiRequest, FirecrackerApi
from plexspaces_node.vm.firecracker.host import FirecrackerHost
from plexspaces_node.vm.firecracker.jailer import (
    ENVIRONMENT,
    VSOCK_PORT,
    Places,
    jailed_command,
    plain_command,
)
from plexspaces_node.vm.firecracker.timeouts import Timeouts
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.process import HostProcess, kill_all
from plexspaces_node.vm.host.vmm import marks_of
from plexspaces_node.vm.image import GuestImage

ROOT_DRIVE = "root"
ARTIFACT_DRIVE = "artifact"

# The machine ends with its guest: `reboot=k` uses the keyboard controller, which Firecracker has
# for this purpose, and a panic reboots at once. The rest prevents the kernel from waiting for
# missing devices and from creating 8 MiB of tracing files.
_KERNEL = (
    "console=ttyS0 reboot=k panic=-1 quiet loglevel=3 i8042.noaux i8042.nomux i8042.dumbkbd "
    "swiotlb=noforce cryptomgr.notests=1 lsm= audit=0 rcupdate.rcu_expedited=1 init_on_alloc=0 "
    "8250.nr_uarts=1 initcall_blacklist=tracer_init_tracefs"
)


def kernel_arguments(vm_id: str) -> str:
    """Return the guest kernel's command line; pure."""
    return f"{_KERNEL} plexspaces.vm={vm_id} plexspaces.link=vsock:2:{VSOCK_PORT}"


def prepare(image: GuestImage, places: Places, config: VmConfig) -> tuple[ApiRequest, ...]:
    """Put every file in its place and return the requests that set up the VM."""
    places.prepare()
    places.show_link()
    slot = places.bundle.path / "slot"
    slot.touch()
    lengthen(slot)
    return (
        api.machine_config(config),
        api.boot_source(
            kernel=places.show(image.kernel, "kernel"),
            initrd=places.show(image.initrd, "initrd"),
            arguments=kernel_arguments(places.bundle.vm_id),
        ),
        api.drive(ROOT_DRIVE, places.show(image.rootfs, "root")),
        api.drive(ARTIFACT_DRIVE, places.show(slot, "slot")),
        api.vsock(places.vsock_name),
    )


def lengthen(drive: Path) -> None:
    """Give the drive in the slot its final size, without allocating blocks.

    The guest's kernel notices a new size only some time after the file was changed.
    """
    os.truncate(drive, SLOT_BYTES)
    drive.chmod(0o444)


async def spawn(
    host: FirecrackerHost, places: Places, config: VmConfig, timeouts: Timeouts
) -> HostProcess:
    """Start Firecracker, which then waits for requests."""
    bundle, root = places.bundle, os.geteuid() == 0
    if places.root is None:
        return HostProcess.spawn(
            plain_command(host.programs, places, drop_capabilities=root),
            marks=marks_of(bundle),
            env=ENVIRONMENT,
            cwd=bundle.path,
            output=bundle.console_log,
        )
    command = jailed_command(host.programs, places, config, cgroups=host.cgroups)
    try:
        await _run_jailer(command, bundle, timeouts.jail_s)
        return _jailed(places)
    except BaseException:
        await kill_all(await asyncio.to_thread(procfs.with_arguments, *marks_of(bundle)))
        raise


async def _run_jailer(command: list[str], bundle: Bundle, timeout_s: float) -> None:
    """Run the jailer until it ends, as soon as Firecracker runs; raises `Unavailable`."""
    with bundle.console_log.open("ab") as log:
        jailer = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
            cwd=bundle.path,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(timeout_s):
            status = await jailer.wait()
    except TimeoutError as error:
        raise DeadlineExceeded(f"the jailer did not finish within {timeout_s:g} s") from error
    finally:
        if jailer.returncode is None:
            with suppress(ProcessLookupError):
                jailer.kill()
            await jailer.wait()
    if status != 0:
        raise Unavailable(f"the jailer ended with status {status}")


def _jailed(places: Places) -> HostProcess:
    """Take over the process that the jailer has started."""
    text = places.pid_file.read_text()
    # Zero and one would not be a process of ours.
    pid = int(text) if text.strip().isdecimal() else 0
    identity = procfs.identify(pid) if pid > 1 else None
    if identity is None:
        raise Unavailable("Firecracker exited immediately")
    return HostProcess.adopt(identity, marks_of(places.bundle))


@asynccontextmanager
async def connected(
    places: Places, process: HostProcess, timeouts: Timeouts
) -> AsyncIterator[FirecrackerApi]:
    """Connect to the API as soon as it is served; raises `Unavailable`, `DeadlineExceeded`."""
    async with AsyncExitStack() as opened:
        pause_s, deadline = 0.001, monotonic() + timeouts.connect_s
        client = FirecrackerApi(places.api_socket, pid=process.identity.pid)
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                connection = await opened.enter_async_context(client)
                break
            if monotonic() > deadline:
                raise DeadlineExceeded(
                    f"firecracker did not serve its API within {timeouts.connect_s:g} s"
                )
            if await process.ended_within(pause_s):
                raise Unavailable(f"firecracker ended with status {await process.wait()}")
            pause_s = min(pause_s * 1.5, 0.05)
        info = await connection.call(api.instance_info(), timeouts.call_s)
        if info.get("id") != places.bundle.vm_id:
            raise Unavailable(f"{places.api_socket} is served for {info.get('id')!r}")
        yield connection
