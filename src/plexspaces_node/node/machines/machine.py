"""A VM with its agent: from its start to a hello, and from there to its removal.

Combines a driver's VM and its agent, so that the rest of the node has one thing to start, load and
destroy. Knows nothing of applications except the frame that loads one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns, time_ns

from plexspaces_node.errors import (
    DeadlineExceeded,
    PlexSpacesError,
    Unavailable,
    VmStartFailed,
)
from plexspaces_node.info import LogLine, VmInfo, VmInspection, VmMemory, VmStep
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB, VmState
from plexspaces_node.node.machines.agent_client import (
    AgentClient,
    HostCalls,
    Kept,
    StopRefused,
    plausible_ns,
)
from plexspaces_node.node.machines.in_flight import InFlight, TenantShare
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.node.outgoing.call import CallFailed, Code, Piece, Request, Response
from plexspaces_node.node.telemetry.span import Span, Step
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.tasks import cancel
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Driver, LinkEnd, Vm, VmExit, VmHandle
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.vmm import step

STOP_GRACE_S = 2.0
"""Between asking a VM to end and killing it."""
MEASURE_TIMEOUT_S = 1.0
"""How long an agent may take to report its memory."""

_MOST_WALLS = 8
_BESIDE_MEMORY_BYTES = 288 * MIB
"""What an agent that is a process may allocate besides its VM's memory: DATA_RESERVE_MIB of the
agent."""
_WALL = re.compile(r"[A-Za-z ]{1,40}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """The settings of every agent of this node."""

    node_id: str
    message_limit: int
    in_flight_limit: int
    in_flight: InFlight | TenantShare = field(default_factory=InFlight)
    timeouts: Timeouts = field(default_factory=Timeouts)
    traffic: Traffic = field(default_factory=Traffic)


class SwitchedHostCalls:
    """The `HostCalls` of a VM that may still be empty: those of the application it loads."""

    def __init__(self) -> None:
        self.target: HostCalls | None = None

    def log(self, lines: Sequence[LogLine]) -> None:
        if self.target is not None:
            self.target.log(lines)

    def snapshot_part(self, part: link.Snapshot, body: link.Body, kept: Kept) -> None:
        if self.target is not None:
            self.target.snapshot_part(part, body, kept)

    def late_reply(self, span: Span | None, reply: link.Reply | None, body: link.Body) -> None:
        if self.target is not None:
            self.target.late_reply(span, reply, body)

    def made(self, cause: Span, step: Step) -> None:
        if self.target is not None:
            self.target.made(cause, step)

    def link_changed(self) -> None:
        if self.target is not None:
            self.target.link_changed()

    async def answer(
        self, call: link.HostCall, body: link.Body, cause: Span | None = None
    ) -> link.Body | None:
        if self.target is None:
            raise Unavailable("the VM has no application")
        return await self.target.answer(call, body, cause)

    def fetch(
        self, request: Request, body: AsyncIterator[Piece]
    ) -> AbstractAsyncContextManager[Response]:
        if self.target is None:
            raise CallFailed(Code.REQUEST_DENIED, "the VM has no application")
        return self.target.fetch(request, body)


class Machine:
    """A running VM whose agent has connected. Created only by `start_machine`.

    Attributes:
        declared_bytes: the memory that its application has from the start.
        memory_at_hello: of its process when its agent had connected, without an application; None
            if it has no process.
    """

    def __init__(  # noqa: PLR0913 - what a start leaves, each by its name
        self,
        driver: Driver,
        bundle: Bundle,
        *,
        vm: Vm,
        agent: AgentClient,
        host: SwitchedHostCalls,
        steps: Sequence[VmStep],
        vm_ns: int,
    ) -> None:
        self.id = bundle.vm_id
        self.bundle = bundle
        self.agent = agent
        self.config = bundle.config
        self._host = host
        self.application = ""
        self.missing_walls = driver.capabilities.missing_walls
        self.cpu_not_enforced = ""
        self.declared_bytes = 0
        self.memory_at_hello = procfs.memory_of(pid_in(vm.handle))
        self.steps = list(steps)
        self.vm_ns = vm_ns
        self.started_unix_ns = time_ns()
        self.state = VmState.EMPTY
        self._driver = driver
        self._vm = vm
        self._hello_ns = perf_counter_ns()

    def __repr__(self) -> str:
        return f"<Machine {self.id} {self.state}>"

    @property
    def isolation(self) -> str:
        """The isolation level."""
        return self._driver.name

    @property
    def pid(self) -> int:
        """Its process on the host, which may lead others; 0 if there is none."""
        return pid_in(self._vm.handle)

    async def load(
        self,
        host: HostCalls,
        artifact: Path,
        frame: Callable[[str], link.Load],
        state: AsyncIterator[link.Body],
        timeout_s: float,
    ) -> link.Loaded:
        """Attach native code and make the agent start it; returns when it can answer.

        From now on `host` gets the agent's reports and requests. `frame` makes the request from the
        path at which the agent finds the artifact; it starts from the state whose parts `state`
        yields. Raises errors of `init`, or a platform error that names what failed.
        """
        self._host.target = host
        begin = perf_counter_ns()
        path = await self._vm.attach(artifact)
        attached = perf_counter_ns()
        request = frame(path)
        loading = asyncio.ensure_future(self.agent.load(request, state, timeout_s))
        ended = asyncio.ensure_future(self._vm.wait())
        try:
            await asyncio.wait({loading, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise VmStartFailed(
                    f"VM {self.id} ended while loading: {ended.result().reason}",
                    step="load",
                )
            loaded = loading.result()
        finally:
            await cancel(loading, ended)
        measured_ns = perf_counter_ns() - attached
        known = self.missing_walls
        self.missing_walls += tuple(w for w in _names(loaded.missing_walls) if w not in known)
        loaded.load_ns = plausible_ns(loaded.load_ns, measured_ns)
        loaded.init_ns = plausible_ns(loaded.init_ns, measured_ns)
        self.steps += [
            VmStep("attach", attached - begin),
            VmStep("load", loaded.load_ns),
            VmStep("init", loaded.init_ns),
        ]
        self.state = VmState.RUNNING
        return loaded

    async def wait(self) -> VmExit:
        """Wait until the VM has ended, or its agent turned out to be deaf."""
        ended = asyncio.ensure_future(self._vm.wait())
        deaf = asyncio.ensure_future(self.agent.deaf.wait())
        try:
            await asyncio.wait({ended, deaf}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else VmExit(None, "the agent did not answer")
        finally:
            await cancel(ended, deaf)

    async def stop(self, timeout_s: float, *, force: bool = False, save: bool = True) -> str:
        """Let the actor take a snapshot and shut down; then remove the VM completely.

        Raises `StopRefused` if its state cannot be saved, and the VM is unchanged. With `force` it
        is destroyed anyway, as is one that does not answer; returns why it did not end cleanly
        then, else "". Nobody waits for a long snapshot that is not to be saved.
        """
        before, self.state = self.state, VmState.STOPPING
        refused, why = False, ""
        try:
            await self.agent.stop(timeout_s, save=save)
        except PlexSpacesError as error:
            refused = isinstance(error, StopRefused) and not force
            if refused:
                self.state = before
                raise
            why = error.message
            _log.warning("VM %s did not shut down cleanly: %s", self.id, error)
        finally:
            if not refused:
                await self.destroy()
        return why

    async def destroy(self) -> None:
        """Remove every process, socket and directory of the VM. Idempotent.

        A VM whose agent is deaf is not asked to end, because it would not react to that either.
        """
        self.state = VmState.STOPPING
        try:
            await self._vm.stop(0 if self.agent.deaf.is_set() else STOP_GRACE_S)
        finally:
            await self.agent.close()
            await self._driver.destroy(self.bundle)
        self.state = VmState.GONE

    async def info(self) -> VmInfo:
        """Describe the current state of the VM."""
        rss_bytes = cpu_ns = 0
        with contextlib.suppress(PlexSpacesError):
            stats = await self._vm.stats()
            rss_bytes, cpu_ns = stats.rss_bytes, stats.cpu_ns
        return VmInfo(
            id=self.id,
            state=self.state,
            isolation=self._driver.name,
            socket=str(self._vm.endpoint.path),
            config=self.config,
            started_unix_ns=self.started_unix_ns,
            rss_bytes=rss_bytes,
            cpu_ns=cpu_ns,
            application=self.application,
            uptime_ns=perf_counter_ns() - self._hello_ns,
            missing_walls=self.missing_walls,
            cpu_not_enforced=self.cpu_not_enforced,
        )

    async def inspect(self) -> VmInspection:
        """Return everything known about the VM now; its agent gets a second to answer."""
        memory, unknown = None, ""
        try:
            told = await self.agent.measure(MEASURE_TIMEOUT_S)
            memory = plausible_memory(told, self.config.memory_mib)
        except PlexSpacesError as error:
            unknown = f"{error.message} ({error.hint})" if error.hint else error.message
        return VmInspection(
            vm=await self.info(),
            pid=self.pid,
            console=str(self.bundle.console_log),
            steps=tuple(self.steps),
            memory=memory,
            memory_unknown=unknown,
        )


def plausible_memory(told: link.Measured, memory_mib: int) -> VmMemory:
    """Return the memory that an agent reports, as far as its VM can have so much."""
    most_bytes = memory_mib * MIB + _BESIDE_MEMORY_BYTES
    total_bytes = min(told.total_bytes, most_bytes)
    bound = total_bytes or most_bytes
    return VmMemory(
        told.guest, total_bytes, min(told.used_bytes, bound), min(told.available_bytes, bound)
    )


def _names(walls: Sequence[str]) -> tuple[str, ...]:
    # An agent reports them, perhaps wrongly, and they appear in every listing.
    return tuple(wall for wall in walls[:_MOST_WALLS] if _WALL.fullmatch(wall))


def pid_in(handle: VmHandle) -> int:
    """Return the process of a VM; 0 if its driver has none or did not say."""
    pid = handle.state.get("pid")
    return pid if isinstance(pid, int) and pid > 0 else 0


async def start_machine(driver: Driver, bundle: Bundle, limits: AgentLimits) -> Machine:
    """Start a VM and wait for its agent's hello; `vm_ns` of the result is how long it took.

    If its agent stays silent, the VM is started once more under the same id. On any failure,
    including cancellation, everything of the attempt is removed, including the bundle. Raises
    `VmStartFailed` with the step.
    """
    begin_ns = perf_counter_ns()
    config, application = bundle.config, bundle.application
    try:
        return await _start(driver, bundle, limits, limits.timeouts.first_hello_s, begin_ns)
    except VmStartFailed as error:
        if error.step != "hello" or not isinstance(error.__cause__, DeadlineExceeded):
            raise
        _log.warning("%s; starting it again", error)
        again = Bundle.create(bundle.path.parent, bundle.vm_id, config, application=application)
        return await _start(driver, again, limits, limits.timeouts.hello_s, begin_ns)


async def _start(
    driver: Driver, bundle: Bundle, limits: AgentLimits, timeout_s: float, begin_ns: int
) -> Machine:
    begin = perf_counter_ns()
    async with AsyncExitStack() as undo:
        undo.push_async_callback(driver.destroy, bundle)
        switch = SwitchedHostCalls()
        agent = AgentClient(
            bundle.vm_id,
            switch,
            node_id=limits.node_id,
            message_limit=limits.message_limit,
            in_flight_limit=limits.in_flight_limit,
            in_flight=limits.in_flight,
            traffic=limits.traffic,
        )
        undo.push_async_callback(agent.close)
        if driver.capabilities.link is LinkEnd.GUEST_DIALS:
            with step("listen", bundle):
                agent.link.listen(bundle.link_socket)
        vm = await driver.start(bundle.config, bundle)
        started = perf_counter_ns()
        undo.push_async_callback(vm.stop, 0)
        if vm.endpoint.opened_by is LinkEnd.NODE_DIALS:
            agent.link.dial(vm.endpoint.path)
        with step("hello", bundle):
            await _hello(agent, vm, timeout_s)
        undo.pop_all()
    end = perf_counter_ns()
    return Machine(
        driver,
        bundle,
        vm=vm,
        agent=agent,
        host=switch,
        steps=[VmStep("start", started - begin), VmStep("hello", end - started)],
        vm_ns=end - begin_ns,
    )


async def _hello(agent: AgentClient, vm: Vm, timeout_s: float) -> None:
    hello = asyncio.ensure_future(agent.link.hello())
    ended = asyncio.ensure_future(vm.wait())
    try:
        await asyncio.wait({hello, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if hello.done():
            hello.result()
        elif ended.done():
            raise Unavailable(f"it ended before the agent connected: {ended.result().reason}")
        else:
            raise DeadlineExceeded(f"the agent did not connect within {timeout_s:g} s")
    finally:
        await cancel(hello, ended)
