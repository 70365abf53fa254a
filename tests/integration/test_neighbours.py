"""A hostile agent beside an honest one, as programs at the links of one event loop.

What is asserted is a ratio: an honest agent's round trip while the other floods the node, to that
while the other is stopped, turn by turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time_ns

import pytest
from support.hostile_agent import FLOODS, VM_ID
from support.link_case import Host
from support.patience import patient
from support.sending import reply_of

from plexspaces_node.allowed_hosts import Address, AllowedHosts
from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines.agent_client import AgentClient, Kept
from plexspaces_node.node.outgoing.outgoing import Outgoing, OutgoingHttp
from plexspaces_node.node.outgoing.resolver import Resolver
from plexspaces_node.node.telemetry.span import Span
from plexspaces_node.vm.host.procfs import resident_bytes

TESTS = Path(__file__).parents[1]
ROUNDS = 5
TIMES = 60
MOST_TIMES_SLOWER = 3.0
MOST_BYTES = 32 << 20
VALUE = bytes(1 << 20)


class Store(Host):
    """Answers every call with a large value, and keeps the log as a node does."""

    def __init__(self, journal: ApplicationLog) -> None:
        super().__init__()
        self._journal = journal
        http = OutgoingHttp(resolver=Resolver(self._look_up))
        allowed = AllowedHosts.parse(["held.example"])
        self.fetches = Outgoing(http, allowed, self._note).call
        self._may = threading.Event()

    def log(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            self._journal.append(line)

    def _look_up(self, name: str) -> list[Address]:
        # As slow as a name server that does not answer.
        self._may.wait(patient(60))
        raise OSError(name)

    def _note(self, level: str, message: str) -> None:
        self._journal.append(LogLine(time_ns(), "node", level, message))

    def snapshot_part(self, part: link.Snapshot, body: link.Body, kept: Kept) -> None:
        """Throw it away."""

    async def answer(
        self, call: link.HostCall, body: link.Body, cause: Span | None = None
    ) -> bytes | None:
        del cause
        await asyncio.sleep(0)
        return VALUE


@asynccontextmanager
async def agent(
    directory: Path, what: str, host: Host
) -> AsyncIterator[tuple[AgentClient, asyncio.subprocess.Process]]:
    """Start an agent of this kind, as a program."""
    path = directory / f"{what}.sock"
    client = AgentClient(VM_ID, host, node_id="n", message_limit=16 << 20, in_flight_limit=1024)
    client.link.listen(path)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.hostile_agent", str(path), what), cwd=TESTS
    )
    try:
        async with asyncio.timeout(patient(20)):
            await client.link.hello()
        yield client, program
    finally:
        await client.close()
        program.kill()
        await program.wait()


async def round_trip_s(client: AgentClient) -> float:
    """Return how long an echo takes, the median of many."""
    times = []
    for _ in range(TIMES):
        begin = perf_counter()
        _, body = await reply_of(client, msg_type="e", payload=b"x" * 100)
        times.append(perf_counter() - begin)
        assert body == b"x" * 100
        # So that the other has its turns.
        await asyncio.sleep(0.002)
    return sorted(times)[TIMES // 2]


@pytest.mark.parametrize("what", sorted(FLOODS))
async def test_flood_of_one_agent_costs_neither_memory_nor_a_neighbours_time(what: str) -> None:
    """Whatever it sends, the node reads what it has time and room for."""
    with TemporaryDirectory(prefix="px-") as name:
        directory = Path(name)
        async with (
            ApplicationLog(directory / "app.log", 1 << 20) as journal,
            agent(directory, "echo", Host()) as (honest, _),
        ):
            await round_trip_s(honest)
            before = resident_bytes(os.getpid())
            async with agent(directory, what, Store(journal)) as (_, hostile):
                calm, stormy = [], []
                for _ in range(ROUNDS):
                    stormy.append(await round_trip_s(honest))
                    hostile.send_signal(signal.SIGSTOP)
                    calm.append(await round_trip_s(honest))
                    hostile.send_signal(signal.SIGCONT)
                assert resident_bytes(os.getpid()) - before < MOST_BYTES
            # The fastest round of each: what else the machine does only adds time.
            assert min(stormy) < MOST_TIMES_SLOWER * min(calm)
