"""VMs without an application, started before a deploy."""

from __future__ import annotations

import asyncio
import logging

from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.model import VmConfig, check_name
from plexspaces_node.node.applications.capacity import Capacity
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.machines.machine import Machine, start_machine
from plexspaces_node.vm.bundle import Bundle, new_vm_id

_log = logging.getLogger(__name__)


class EmptyVms:
    """Starts and stops the empty VMs of a node, and passes them to deploys."""

    def __init__(
        self, node: NodeContext, roster: Roster, capacity: Capacity, scope: TaskScope
    ) -> None:
        self._node = node
        self._roster = roster
        self._capacity = capacity
        self._scope = scope
        # Each waits for the end of its VM.
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<EmptyVms {', '.join(self._roster.empty_vms)}>"

    async def start(self, vm_id: str, config: VmConfig) -> Machine:
        """Start an empty VM; "" generates an ID.

        Raises `AlreadyExists` for an ID in use, `InvalidArgument`, `ResourceExhausted` if the node
        is full, `VmStartFailed`.
        """
        node = self._node
        node.driver.capabilities.check(config)
        vm_id = vm_id or new_vm_id()
        check_name(vm_id, what="VM id")
        async with self._scope.cancellable():
            with self._capacity.for_empty_vm(vm_id, config.memory_mib):
                bundle = Bundle.create(node.vms, vm_id, config)
                machine = await start_machine(node.driver, bundle, node.agent_limits)
                self._roster.empty_vms[vm_id] = machine
                watcher = asyncio.create_task(self._watch(machine), name=f"watch {vm_id}")
                self._watchers[vm_id] = watcher
        return machine

    async def stop(self, vm_id: str) -> None:
        """Stop an empty VM and remove it. Idempotent.

        Raises `WrongState` if the VM has an application: stop that.
        """
        for supervisor in self._roster.supervisors():
            if supervisor.machine is not None and supervisor.machine.id == vm_id:
                raise WrongState(
                    f"VM {vm_id!r} runs application {supervisor.name!r}",
                    hint=f"plexspaces stop --name {supervisor.name}",
                )
        await self._scope.shielded(self._stop(vm_id))

    def take(self, vm_id: str) -> Machine:
        """Return an empty VM, which then belongs to the caller; raises `NotFound`.

        It does not wait: a caller that was cancelled meanwhile would lose the VM.
        """
        self.check(vm_id)
        machine = self._roster.empty_vms.pop(vm_id)
        # One that has seen the end of the VM has removed it from the roster already.
        self._watchers.pop(vm_id).cancel()
        return machine

    def check(self, vm_id: str) -> None:
        """Raise `NotFound` unless there is an empty VM with this ID."""
        if vm_id not in self._roster.empty_vms:
            raise NotFound(f"there is no empty VM {vm_id!r}", hint="plexspaces list")

    async def _stop(self, vm_id: str) -> None:
        if vm_id in self._roster.empty_vms:
            machine = self.take(vm_id)
            await machine.stop(1.0, force=True)

    async def _watch(self, machine: Machine) -> None:
        ended = await machine.wait()
        _log.warning("empty VM %s ended: %s", machine.id, ended.reason)
        self._roster.empty_vms.pop(machine.id, None)
        self._watchers.pop(machine.id, None)
        await machine.destroy()
