"""Looks at the memory of VMs, and keeps the most that was seen of each."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB
from plexspaces_node.node.advisor.memory import MemoryFigures
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.vm.host import procfs

PROCESS = "process"
"""The level at which a VM is a process, whose memory the kernel tells."""


@dataclass(slots=True)
class _Seen:
    """What was seen of one VM since the first look.

    Attributes:
        total_bytes: what is in a guest; 0 for a process.
    """

    since_ns: int
    messages_before: int
    messages: int
    looks: int = 0
    total_bytes: int = 0
    used_bytes: int = 0
    surely_used_bytes: int = 0


class MemoryLooks:
    """The memory of VMs. `look` at each again and again. Used on the event loop."""

    def __init__(self, info: NodeInfo) -> None:
        self._info = info
        self._seen: WeakKeyDictionary[Machine, _Seen] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<MemoryLooks at {len(self._seen)} VMs>"

    async def look(self, supervisor: Supervisor, unix_ns: int) -> None:
        """Measure the VM of an application, unless there was no message since the last look.

        Waits for an agent in a guest, for a second at most.
        """
        machine, messages = supervisor.machine, supervisor.activity.total.messages
        if machine is None:
            return
        seen = self._seen.get(machine)
        if seen is None:
            self._seen[machine] = _Seen(unix_ns, messages, messages)
            return
        if messages == seen.messages:
            return
        seen.messages = messages
        if self._info.isolation == PROCESS:
            _look_at_process(seen, machine)
        else:
            await _look_into_guest(seen, machine)

    def figures(self, supervisor: Supervisor, unix_ns: int) -> MemoryFigures | None:
        """Return what was seen of the VM of an application; None if it has none."""
        machine, messages = supervisor.machine, supervisor.activity.total.messages
        if machine is None:
            return None
        seen = self._seen.get(machine) or _Seen(unix_ns, messages, messages)
        overhead_mib, given_mib = self._info.overhead_mib, machine.config.memory_mib
        is_guest = bool(seen.total_bytes)
        declared_mib = -(-machine.declared_bytes // MIB)
        return MemoryFigures(
            supervisor.name,
            given_mib,
            # What a guest's kernel keeps for itself is not in its total.
            given_mib * MIB - seen.total_bytes if is_guest else overhead_mib * MIB,
            seen.used_bytes,
            seen.surely_used_bytes,
            max(self._info.min_memory_mib, overhead_mib + declared_mib),
            "what its guest has in use" if is_guest else "the peak of its process in RAM",
            (unix_ns - seen.since_ns) / 1e9,
            seen.looks,
            seen.messages - seen.messages_before,
        )


def _look_at_process(seen: _Seen, machine: Machine) -> None:
    now, before = procfs.memory_of(machine.pid), machine.memory_at_hello
    if now is None or before is None:
        return
    seen.looks += 1
    # The peak, with what came between two looks, and with the native code: it may be more than
    # what the application used, and is never less.
    used = now.peak_bytes - before.resident_bytes
    seen.used_bytes = max(seen.used_bytes, used)
    surely = now.anonymous_bytes - before.anonymous_bytes
    seen.surely_used_bytes = max(seen.surely_used_bytes, surely)


async def _look_into_guest(seen: _Seen, machine: Machine) -> None:
    memory = (await machine.inspect()).memory
    # Of a VM that is being replaced there is none.
    if memory is None or not memory.guest:
        return
    seen.looks += 1
    seen.total_bytes = memory.total_bytes
    seen.used_bytes = seen.surely_used_bytes = max(seen.used_bytes, memory.used_bytes)
