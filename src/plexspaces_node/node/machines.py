"""A machine with its agent: from nothing to a hello, and from there to no trace.

Puts together what a driver makes and what an agent says, so that the rest of the node has one
thing to start, load and destroy. Knows nothing of applications beyond the frame that loads one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any

from plexspaces_node.errors import PlexSpacesError, Unavailable, VmStartFailed
from plexspaces_node.model import VmState
from plexspaces_node.node.agents import AgentClient, HostCalls
from plexspaces_node.views import VmInfo
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Driver, LinkEnd, Vm, VmExit
from plexspaces_node.wire import link

HELLO_TIMEOUT_S = 30.0
"""For a machine's agent to say hello: ten times what a cold boot under emulation takes."""
STOP_GRACE_S = 2.0
"""Between asking a machine to end and insisting."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What every agent of this node is given."""

    node_id: str
    message_limit: int
    in_flight_limit: int


class SwitchedHostCalls:
    """The `HostCalls` of a machine that may still be empty: set once, with its application."""

    def __init__(self) -> None:
        self.target: HostCalls | None = None

    def log(self, frame: link.Log) -> None:
        if self.target is not None:
            self.target.log(frame)

    def snapshot(self, state: bytes) -> None:
        if self.target is not None:
            self.target.snapshot(state)

    async def answer(self, request: link.Ask | link.Tell | link.Get | link.Put) -> bytes | None:
        if self.target is None:
            raise Unavailable("the machine has no application")
        return await self.target.answer(request)


class Machine:
    """A running machine whose agent has said hello. Made by `start_machine` only."""

    def __init__(
        self,
        driver: Driver,
        bundle: Bundle,
        *,
        vm: Vm,
        agent: AgentClient,
        host: SwitchedHostCalls,
    ) -> None:
        self.id = bundle.vm_id
        self.agent = agent
        self.config = bundle.config
        self.host = host
        self.vm_ns = 0
        self.started_unix_ns = time_ns()
        self.state = VmState.EMPTY
        self._driver = driver
        self._bundle = bundle
        self._vm = vm

    def __repr__(self) -> str:
        return f"<Machine {self.id} {self.state}>"

    async def load(
        self, artifact: Path, frame: Callable[[int, str], link.Load], timeout_s: float
    ) -> link.Loaded:
        """Attach a compiled artifact and have the agent start it; returns when it can answer.

        `frame` makes the request from its id and the path at which the agent finds the artifact.
        Raises what `init` did wrong, or a platform error that names what failed.
        """
        path = await self._vm.attach(artifact)
        loading = asyncio.ensure_future(self.agent.load(lambda id: frame(id, path), timeout_s))
        ended = asyncio.ensure_future(self._vm.wait())
        try:
            await asyncio.wait({loading, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise VmStartFailed(
                    f"the machine {self.id} ended while it loaded: {ended.result().reason}",
                    step="load",
                )
            loaded = loading.result()
        finally:
            await _cancel(loading, ended)
        self.state = VmState.RUNNING
        return loaded

    async def wait(self) -> VmExit:
        """Wait until the machine has ended, or its agent turned out to be deaf."""
        ended = asyncio.ensure_future(self._vm.wait())
        deaf = asyncio.ensure_future(self.agent.deaf.wait())
        try:
            await asyncio.wait({ended, deaf}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else VmExit(None, "its agent did not answer")
        finally:
            await _cancel(ended, deaf)

    async def stop(self, timeout_s: float) -> None:
        """Say goodbye: the actor snapshots and shuts down; then leave no trace of the machine.

        Never raises for a machine that does not answer: it is destroyed all the same.
        """
        self.state = VmState.STOPPING
        try:
            await self.agent.stop(timeout_s)
        except PlexSpacesError as error:
            _log.warning("machine %s did not say goodbye: %s", self.id, error)
        await self.destroy()

    async def destroy(self) -> None:
        """Leave no process, socket or directory of the machine. Idempotent."""
        self.state = VmState.STOPPING
        await self._vm.stop(STOP_GRACE_S)
        await self.agent.close()
        await self._driver.destroy(self._bundle)
        self.state = VmState.GONE

    async def info(self) -> VmInfo:
        """Describe the machine as it is now."""
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
        )


async def start_machine(driver: Driver, bundle: Bundle, limits: AgentLimits) -> Machine:
    """Start a machine and wait for its agent's hello; `vm_ns` of the result says how long it took.

    On any failure, cancelling included, everything of the attempt is gone, the bundle too. Raises
    `VmStartFailed` naming the step.
    """
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
        )
        undo.push_async_callback(agent.close)
        if driver.capabilities.link is LinkEnd.GUEST_DIALS:
            await agent.listen(bundle.link_socket)
        vm = await driver.start(bundle.config, bundle)
        undo.push_async_callback(vm.stop, 0)
        if vm.endpoint.opened_by is LinkEnd.NODE_DIALS:
            agent.dial(vm.endpoint.path)
        await _hello(agent, vm, bundle)
        undo.pop_all()
    machine = Machine(driver, bundle, vm=vm, agent=agent, host=switch)
    machine.vm_ns = perf_counter_ns() - begin
    return machine


async def _hello(agent: AgentClient, vm: Vm, bundle: Bundle) -> None:
    hello = asyncio.ensure_future(agent.hello())
    ended = asyncio.ensure_future(vm.wait())
    try:
        await asyncio.wait(
            {hello, ended}, timeout=HELLO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if hello.done() and hello.exception() is None:
            return
        if hello.done():
            why = str(hello.exception())
        elif ended.done():
            why = f"it ended before its agent said hello: {ended.result().reason}"
        else:
            why = f"its agent said no hello within {HELLO_TIMEOUT_S:g} s"
        raise VmStartFailed(
            f"machine {bundle.vm_id}: {why}\n{bundle.console_tail()}".rstrip(),
            step="hello",
            hint="plexspaces doctor",
        )
    finally:
        await _cancel(hello, ended)


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
