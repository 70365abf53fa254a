"""The driver contract: what the node may ask of any way to make a machine.

This file owns the protocols `Driver` and `Vm` and the records that cross them. Every driver
passes the suite in `tests/contract/test_vm_driver.py`, the scriptable fake included. Nothing here
speaks to the agent: a driver's work ends when the machine runs and the place of its link is known.
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
    """What `probe` found.

    Attributes:
        ok: machines can be made here, now.
        reason: one line a person understands, also when ok.
        hint: the command that mends it, or None.
        emulated: machines can be made but are many times slower than this host; `auto` does not
            choose such a level.
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
        min_memory_mib: the least `VmConfig.memory_mib` with which an application works.
        max_memory_mib: the most that this host can give one machine.
        max_vcpus: the most `VmConfig.vcpus`.
        isolation: one line on what the level protects against, for listings and docs.
        overhead_mib: what of `VmConfig.memory_mib` the machine and its agent need for themselves;
            the actor gets the rest.
        memory_promised: how many times the host's memory all machines may have together, unless
            the node is told a number: once where a machine keeps what it has touched.
        missing_walls: what is to hold every machine's agent and this host does not have.
    """

    link: LinkEnd
    min_memory_mib: int
    max_memory_mib: int
    max_vcpus: int
    isolation: str
    overhead_mib: int = 48
    memory_promised: int = 1
    missing_walls: tuple[str, ...] = ()

    def check(self, config: VmConfig) -> None:
        """Raise `InvalidArgument` unless a machine of this size can be made."""
        check_vm_size(
            config,
            min_memory_mib=self.min_memory_mib,
            max_memory_mib=self.max_memory_mib,
            max_vcpus=self.max_vcpus,
        )


@dataclass(frozen=True, slots=True)
class VmExit:
    """How a machine ended: the status of its host process, and one line a person understands."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class VmStats:
    """What a machine costs its host at this moment."""

    rss_bytes: int
    cpu_ns: int


@runtime_checkable
class Vm(Protocol):
    """A machine that was started. There is no un-started one."""

    @property
    def handle(self) -> VmHandle:
        """The record to find it again; already on disk in the bundle."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the agent is reached."""

    async def attach(self, file: Path) -> str:
        """Make a host file readable inside the machine and return the path the agent opens.

        A machine takes one file in its life. Raises `WrongState` on a second call, `NotFound` for
        a file that is not there, `Unavailable` when the machine has ended.
        """

    async def wait(self) -> VmExit:
        """Wait until the machine has ended, however it ends; returns at once when it already has.

        May be awaited by several tasks, and again after it returned.
        """

    async def stop(self, grace_s: float) -> VmExit:
        """Ask the machine to end, insist after `grace_s` seconds, return when it has ended.

        Idempotent. The bundle stays; `Driver.destroy` removes it.
        """

    async def stats(self) -> VmStats:
        """Measure the machine now; raises `Unavailable` when it has ended."""


@runtime_checkable
class Driver(Protocol):
    """A way to make machines."""

    @property
    def name(self) -> str:
        """`process`, `qemu`, `firecracker`: the isolation level users choose."""

    @property
    def capabilities(self) -> Capabilities:
        """What this driver can do on this host."""

    async def probe(self) -> Health:
        """Try whether machines can be made here, by doing rather than looking."""

    async def start(self, config: VmConfig, bundle: Bundle) -> Vm:
        """Start a machine and return when it runs; its agent may not have spoken yet.

        The handle is in the bundle before the machine can outlive the node. Raises
        `VmStartFailed` with the name of the failing step, and then no process or socket of the
        attempt is left; the bundle is the caller's to destroy.
        """

    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        """End whatever runs from this bundle and remove the bundle; silent when already gone.

        Works without a handle and without a live `Vm` object. Who has seen that nothing runs from
        it says `ended`, and saves a look at all processes of the host.
        """

    def close(self) -> None:
        """Let go of what is kept for machines to come; those that run go on.

        Idempotent; the driver can be used again, and is then slower at first.
        """
