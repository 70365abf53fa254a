"""The driver contract: what the node can ask of any way to run a VM.

This module defines the protocols `Driver` and `Vm` and their records. Every driver passes the tests
in `tests/contract/test_vm_driver.py`, including the scriptable fake. Nothing here talks to the
agent: a driver is done when the VM runs and the place of its link is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from plexspaces_node.model import VmConfig, check_vm_size
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.bundle import VmHandle as VmHandle  # part of the contract


class LinkEnd(StrEnum):
    """Which end opens the connection between node and agent."""

    GUEST_DIALS = "guest-dials"
    """The node listens on `Endpoint.path` before `Driver.start` is called."""
    NODE_DIALS = "node-dials"
    """The node connects to `Endpoint.path` after `Driver.start` has returned."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the link between node and agent is: a unix socket on the host."""

    path: Path
    opened_by: LinkEnd


@dataclass(frozen=True, slots=True)
class Health:
    """The result of `probe`.

    Attributes:
        ok: whether VMs can be started here now.
        reason: one line for people, also if ok.
        hint: the command that fixes it, or None.
        emulated: VMs can be started but are many times slower than this host; `auto` does not
            select such a level.
    """

    ok: bool
    reason: str
    hint: str | None = None
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do beyond the contract; each field says what the caller may then do.

    Attributes:
        link: see `LinkEnd`.
        min_memory_mib: the smallest `VmConfig.memory_mib` with which an application works.
        max_memory_mib: the largest that this host can give one VM.
        max_vcpus: the largest `VmConfig.vcpus`.
        isolation: one line on what the level protects against, for listings and docs.
        overhead_mib: how much of `VmConfig.memory_mib` the machine and its agent use; the rest is
            for the actor.
        memory_promised: how many times the host's memory all VMs together can have by default: once
            if a VM keeps the memory it has touched.
        missing_walls: the walls of every VM's agent that this host does not support.
        host_memory_mib: how much of the host's memory a VM's processes can need beyond
            `VmConfig.memory_mib`; 0 if that is not known, and then no cgroup bounds it.
        host_processes: how many processes and threads of the host a VM can have, beyond one for
            each virtual CPU.
    """

    link: LinkEnd
    min_memory_mib: int
    max_memory_mib: int
    max_vcpus: int
    isolation: str
    overhead_mib: int = 48
    memory_promised: int = 1
    missing_walls: tuple[str, ...] = ()
    host_memory_mib: int = 0
    host_processes: int = 128

    def check(self, config: VmConfig) -> None:
        """Raise `InvalidArgument` unless a VM can have this size."""
        check_vm_size(
            config,
            min_memory_mib=self.min_memory_mib,
            max_memory_mib=self.max_memory_mib,
            max_vcpus=self.max_vcpus,
        )


@dataclass(frozen=True, slots=True)
class VmExit:
    """How a VM ended: the status of its host process, and one line for people."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class VmStats:
    """The resources that a VM uses on its host now."""

    rss_bytes: int
    cpu_ns: int


@runtime_checkable
class Vm(Protocol):
    """A started VM. There are no others."""

    @property
    def handle(self) -> VmHandle:
        """The record to find it again; already stored in the bundle."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the agent can be reached."""

    async def attach(self, file: Path) -> str:
        """Make a host file readable inside the VM and return the path that the agent opens.

        A VM takes only one file in its life. Raises `WrongState` on a second call, `NotFound` if
        the file does not exist, `Unavailable` if the VM has ended.
        """

    async def wait(self) -> VmExit:
        """Wait until the VM has ended in any way; returns at once if it already has.

        Several tasks can wait, also again after it has returned.
        """

    async def stop(self, grace_s: float) -> VmExit:
        """Ask the VM to end, kill it after `grace_s` seconds, return when it has ended.

        Idempotent. The bundle stays; `Driver.destroy` removes it.
        """

    async def stats(self) -> VmStats:
        """Measure the VM now; raises `Unavailable` if it has ended."""


@runtime_checkable
class Driver(Protocol):
    """A way to run VMs."""

    @property
    def name(self) -> str:
        """`process`, `qemu`, `firecracker`: the isolation level users choose."""

    @property
    def capabilities(self) -> Capabilities:
        """What this driver can do on this host."""

    async def probe(self) -> Health:
        """Try whether VMs can be started here, by starting something."""

    async def start(self, config: VmConfig, bundle: Bundle) -> Vm:
        """Start a VM and return when it runs; its agent may not have connected yet.

        The handle is in the bundle before the VM can outlive the node. Raises `VmStartFailed` with
        the name of the failing step, and then no process or socket is left; the caller has to
        destroy the bundle.
        """

    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        """End whatever runs from this bundle and remove it; does nothing if it is gone.

        Works without a handle and without a `Vm` object. A caller that knows that nothing runs from
        the bundle passes `ended`, which saves a scan of all processes of the host.
        """

    def close(self) -> None:
        """Release what is kept for future VMs; running ones are not affected.

        Idempotent; the driver can still be used, and is slower at first.
        """
