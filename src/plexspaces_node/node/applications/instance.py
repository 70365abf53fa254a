"""The VM of an application: started, loaded with the application, ended.

There is never more than one at a time. A VM that could not be removed is remembered and removed
later. Knows nothing of states or restarts; see `supervisor`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter_ns

from plexspaces_node.errors import ActorError, PlexSpacesError
from plexspaces_node.link import frames as link
from plexspaces_node.model import (
    ENVIRONMENT_LIMIT_BYTES,
    MIB,
    ArtifactKind,
    PhaseTimings,
    environment_bytes,
    split_name,
)
from plexspaces_node.node.applications.actor_host import ActorHost
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.state_saver import StateSaver
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.machines.agent_client import StopRefused
from plexspaces_node.node.machines.machine import Machine, start_machine
from plexspaces_node.node.registry.registry import ApplicationRecord
from plexspaces_node.node.secrets.cipher import SecretUnusable
from plexspaces_node.vm.bundle import Bundle, new_vm_id

Progress = Callable[[str], None]
"""Called with the name of the phase that begins: stop, compile, vm or load."""

FAULTS = (PlexSpacesError, ActorError, OSError, RuntimeError, MemoryError)
"""Errors that are not bugs of the node; a thread that cannot start is a RuntimeError."""

STREAM_GRACE_S = 1.0
"""How long the responses that have begun may go on when their application is stopped: those that
come meanwhile wait for the next one."""

GOODBYE_S = 5.0
"""The time limit of each step after messages and last snapshot until the agent's last frame."""

LOAD_SLACK_S = 1.0
"""How much longer the node waits for a load than its agent, whose answer should come first."""

KINDS = {
    ArtifactKind.ACTOR: link.Load.KIND_ACTOR,
    ArtifactKind.COMMAND: link.Load.KIND_COMMAND,
    ArtifactKind.COMMAND_COMPONENT: link.Load.KIND_COMMAND_COMPONENT,
    ArtifactKind.HTTP_COMPONENT: link.Load.KIND_HTTP_COMPONENT,
}


class Instance:
    """The VM of one application. Its methods are called one at a time.

    Attributes:
        machine: the running one, or None.
        reached_load: whether the last start came as far as the application's own code.
    """

    def __init__(
        self, node: NodeContext, host: ActorHost, saver: StateSaver, warn: Callable[[str], None]
    ) -> None:
        """Set up without starting; `warn` is called if a VM cannot be removed."""
        self.machine: Machine | None = None
        self.reached_load = False
        self._node = node
        self._host = host
        self._saver = saver
        self._warn = warn
        # VMs that may not be removed completely.
        self._leftovers: set[Bundle] = set()
        # Whose group its VM is in.
        self._name = ""

    def __repr__(self) -> str:
        return f"<Instance {self.machine!r}, {len(self._leftovers)} leftovers>"

    async def start(
        self,
        record: ApplicationRecord,
        *,
        compiled: Compiled | None,
        empty: Machine | None,
        progress: Progress,
    ) -> PhaseTimings:
        """Load the application into `empty` or a new VM; return the times when it is ready.

        Compiles its artifact unless `compiled` is given, and starts from its newest state. On any
        failure, including cancellation, the VM is removed; raises what `ArtifactStore.compile`,
        `start_machine` and `Machine.load` raise.
        """
        begin = perf_counter_ns()
        self.reached_load = False
        machine = empty
        try:
            # Before a VM is started for nothing.
            await self._node.secrets.check_usable(record.name, record.secrets)
            compiled = compiled or await self._node.artifacts.compile(record.artifact)
            if machine is None:
                progress("vm")
                machine = await self._new_machine(record)
            progress("load")
            load_begin = perf_counter_ns()
            loaded = await self._load(machine, record, compiled)
        except BaseException:
            if machine is not None:
                await self._discard(machine)
            raise
        self.machine = machine
        end = perf_counter_ns()
        return PhaseTimings(
            compile_ns=compiled.duration_ns,
            compile_cached=compiled.cached,
            vm_ns=0 if empty else machine.vm_ns,
            # Everything but the actor's init is loading: the artifact and both directions of the
            # link.
            load_ns=end - load_begin - loaded.init_ns,
            init_ns=loaded.init_ns,
            total_ns=end - begin,
        )

    async def stop(self, grace_s: float, *, force: bool, save: bool) -> str:
        """Let messages finish for `grace_s` seconds and end the VM cleanly.

        Returns why it did not end cleanly, else "". Raises `StopRefused` if the actor's state
        cannot be handed over, unless `force`: the VM keeps running.
        """
        machine, why = self.machine, ""
        if machine is not None:
            agent, loop = machine.agent, asyncio.get_running_loop()
            cut = loop.call_later(STREAM_GRACE_S, partial(agent.exchanges.cut, streams_only=True))
            try:
                async with asyncio.timeout(grace_s):
                    await agent.idle()
            except TimeoutError:
                # A stop request would only wait in the mailbox.
                why = f"a message was still running after the grace period of {grace_s:g} s"
                if not force:
                    raise StopRefused(why, hint="wait until it is done") from None
                # Their clients hear why, and not that the link broke.
                agent.exchanges.cut()
                await machine.destroy()
            else:
                why = await machine.stop(GOODBYE_S, force=force, save=save)
            finally:
                cut.cancel()
            self.machine = None
            await self._node.shares.leave(self._name)
        return why

    async def destroy(self) -> Exception | None:
        """End every VM at once; return what prevents one from being removed."""
        resists = None
        await self.discard()
        for bundle in tuple(self._leftovers):
            try:
                await self._node.driver.destroy(bundle)
            except FAULTS as error:
                self._warn(f"VM {bundle.vm_id} could not be removed: {error!r}")
                resists = error
            else:
                self._leftovers.discard(bundle)
        if not self._leftovers:
            await self._node.shares.leave(self._name)
        return resists

    async def discard(self) -> None:
        """Remove the VM, which has ended; what cannot be removed is left to `destroy`."""
        if self.machine is not None:
            await self._discard(self.machine)

    async def _new_machine(self, record: ApplicationRecord) -> Machine:
        node = self._node
        await self.destroy()
        bundle = Bundle.create(node.vms, new_vm_id(), record.vm_config, application=record.name)
        self._leftovers.add(bundle)
        machine = await start_machine(node.driver, bundle, node.agent_limits_of(record.name))
        self._leftovers.discard(bundle)
        return machine

    async def _load(
        self, machine: Machine, record: ApplicationRecord, compiled: Compiled
    ) -> link.Loaded:
        memory_mib = record.vm_config.memory_mib - self._node.driver.capabilities.overhead_mib
        self._name = record.name
        machine.declared_bytes = compiled.report.memory_bytes
        machine.cpu_not_enforced = await self._node.shares.enter(
            record.name, record.id, machine.pid, record.vm_config, self._node.driver.capabilities
        )
        self._saver.received.begin(memory_mib * MIB)
        self._host.allow(record.allow_hosts)
        state_bytes, state = await self._saver.latest()
        limits = self._node.limits
        secrets = await self._node.secrets.values_of(record.name, record.secrets)
        frame = link.Load(
            # All that it is told of its name.
            application=split_name(record.name)[1],
            kind=KINDS[record.kind],
            env=_environment(record, secrets),
            args=record.args,
            memory_bytes=memory_mib * MIB,
            state_bytes=state_bytes,
            timeout_ns=int(limits.deploy_timeout_s * 1e9),
            mailbox=limits.mailbox,
            snapshot_interval_ns=int(limits.snapshot_interval_s * 1e9),
            concurrency=record.at_once,
            vcpus=record.vm_config.vcpus,
        )
        timeout_s = limits.deploy_timeout_s + LOAD_SLACK_S
        machine.application = record.name
        return await machine.load(
            self._host, compiled.path, partial(self._at, frame), state, timeout_s
        )

    def _at(self, frame: link.Load, path: str) -> link.Load:
        self.reached_load = True
        frame.path = path
        return frame

    async def _discard(self, machine: Machine) -> None:
        self.machine = None
        self._saver.received.begin(0)
        self._leftovers.add(machine.bundle)
        try:
            await machine.destroy()
        except FAULTS as error:
            self._warn(f"VM {machine.id} could not be removed: {error!r}")
        else:
            self._leftovers.discard(machine.bundle)
            await self._node.shares.leave(self._name)


def _environment(record: ApplicationRecord, secrets: Mapping[str, str]) -> Mapping[str, str]:
    """Return all variables; raises `SecretUnusable` if they are too long together."""
    env = {**record.env, **secrets}
    total = environment_bytes(env, record.args)
    if total > ENVIRONMENT_LIMIT_BYTES:
        raise SecretUnusable(
            f"variables, arguments and secrets of {total} bytes exceed the limit of "
            f"{ENVIRONMENT_LIMIT_BYTES}",
            hint="set shorter secrets, and keep large data elsewhere",
        )
    return env
