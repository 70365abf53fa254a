"""Compiles artifacts in turn: small ones apart from large ones, and each artifact once.

A compilation takes as much time and memory as the artifact needs, up to the limits. Small
artifacts, which usually compile in a second, have their own lane with tight limits; one that turns
out to need more continues in the lane of the large ones. The caller knows whether an artifact
exists and who holds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plexspaces_node.errors import ResourceExhausted, Unavailable
from plexspaces_node.model import MIB, split_name
from plexspaces_node.node.artifacts.compiler import CompileLimits, compile_to, inspect
from plexspaces_node.node.artifacts.fair_slots import Turns
from plexspaces_node.node.artifacts.files import ArtifactFiles
from plexspaces_node.node.artifacts.native_cache import Entry
from plexspaces_node.node.artifacts.report import ArtifactReport, report_of
from plexspaces_node.node.disk import DiskFull
from plexspaces_node.programs import compiler_program
from plexspaces_node.tasks import finished

_log = logging.getLogger(__name__)

SHORT_BYTES = 4 * MIB
"""Actors in Go and TypeScript are smaller; those in Python are not."""

SHORT_TIMEOUT_S = 10.0
SHORT_MEMORY_MIB = 1024

_MOST = 8

_INSPECTIONS_AT_ONCE = 4
"""How many inspections run at once: each takes some milliseconds, and none waits for a
compilation."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A number of compilers, and the limits of each."""

    turns: Turns
    limits: CompileLimits


class Lanes:
    """Every compiler of a node: as many as the limits say, but one in each lane."""

    def __init__(self, limits: CompileLimits) -> None:
        short = replace(
            limits,
            timeout_s=min(limits.timeout_s, SHORT_TIMEOUT_S),
            memory_mib=min(limits.memory_mib, SHORT_MEMORY_MIB),
        )
        places = max(1, limits.at_once // 4)
        self._short = _lane(places, short)
        self._long = _lane(max(1, limits.at_once - places), limits)

    def __repr__(self) -> str:
        return f"<Lanes short {self._short.turns!r}, long {self._long.turns!r}>"

    def of(self, size_bytes: int) -> tuple[Lane, ...]:
        """Return the lanes in which an artifact of this size is compiled, in order."""
        if size_bytes > SHORT_BYTES:
            return (self._long,)
        if self._short.limits == self._long.limits:
            return (self._short,)
        return self._short, self._long


@dataclass(slots=True)
class _Compilation:
    task: asyncio.Task[Entry]
    waiters: int = 0


class CompileQueue:
    """The compilations of a node: requests for the same artifact share one."""

    def __init__(
        self,
        files: ArtifactFiles,
        *,
        limits: CompileLimits,
        compiler: Sequence[str],
        output_limit_bytes: int,
    ) -> None:
        """Set up without compiling; an empty `compiler` means the program itself."""
        self._files = files
        self._limits = limits
        self._compiler = tuple(compiler)
        self._output_limit_bytes = output_limit_bytes
        self._lanes = Lanes(limits)
        self._inspections = Turns(_INSPECTIONS_AT_ONCE)
        # Compilations that others can join, by the artifact; and every task that still runs.
        self._joinable: dict[str, _Compilation] = {}
        self._tasks: set[asyncio.Task[Entry]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<CompileQueue {len(self._tasks)} compiling>"

    async def close(self) -> None:
        """End every compilation and wait until its process is gone; start no others."""
        self._closed = True
        await _end_tasks(self._tasks)

    async def inspect(self, name: str, owner: str) -> ArtifactReport:
        """Inspect an artifact without compiling it; raises what `compile` raises."""
        async with self._inspections.place(owner, split_name(name)[0]):
            await self._files.check_whole(name)
            program, source = await self._program(), self._files.path(name)
            scratch = self._files.native.directory
            return report_of(await inspect(program, source, scratch, limits=self._limits))

    async def compile(self, name: str, owner: str) -> Entry:
        """Compile an artifact, or wait for a running compilation of it; the code is then cached.

        It is compiled at the turn of its tenant, in that of the first caller's `owner`, and
        continues as long as one caller waits. Raises `NotFound` if the artifact is missing or
        damaged, `InvalidArgument` if it cannot run here or crashes the compiler,
        `ResourceExhausted` if it needs too much, and `Unavailable` after `close`; then no code is
        left.
        """
        if self._closed:
            raise Unavailable("the artifact store is closed", hint="the node is stopping")
        compilation = self._joinable.get(name)
        if compilation is None:
            compilation = _Compilation(asyncio.create_task(self._compile(name, owner)))
            self._joinable[name] = compilation
            self._tasks.add(compilation.task)
            compilation.task.add_done_callback(self._tasks.discard)
        compilation.waiters += 1
        try:
            return await asyncio.shield(compilation.task)
        finally:
            compilation.waiters -= 1
            if compilation.waiters == 0:
                if self._joinable.get(name) is compilation:
                    del self._joinable[name]
                await _end_tasks({compilation.task})

    async def _compile(self, name: str, owner: str) -> Entry:
        *tried, last = self._lanes.of(await self._files.size_bytes(name) or 0)
        for lane in tried:
            try:
                return await self._compile_in(lane, name, owner)
            except DiskFull:
                raise
            except ResourceExhausted:
                _log.info("artifact %s needs more than a short compilation may use", name)
        return await self._compile_in(last, name, owner)

    async def _compile_in(self, lane: Lane, name: str, owner: str) -> Entry:
        native = self._files.native
        async with lane.turns.place(owner, split_name(name)[0]):
            # Another compilation of it may have finished while this one waited for its turn.
            if (entry := await self._files.find_native(name)) is not None:
                return entry
            await self._files.check_whole(name)
            output = native.scratch()
            try:
                said = await compile_to(
                    await self._program(),
                    self._files.path(name),
                    output,
                    limits=lane.limits,
                    output_limit_bytes=self._output_limit_bytes,
                )
                # Not cancelled: its output would not be counted after the clean-up.
                keeping = asyncio.to_thread(native.keep, output, native.key(name), report_of(said))
                return await finished(keeping)
            finally:
                await asyncio.shield(asyncio.to_thread(output.unlink, missing_ok=True))

    async def _program(self) -> Sequence[str]:
        return self._compiler or (str(await asyncio.to_thread(compiler_program)),)


def _lane(places: int, limits: CompileLimits) -> Lane:
    # If there are several places, one client does not get all of them.
    return Lane(Turns(places, share=max(1, places - 1)), limits)


def compilers(processors: int, host_memory_mib: int, compile_memory_mib: int) -> int:
    """Return how many compilers a host can run: they get three quarters of its memory.

    One more than processors, because one is for small artifacts; from two to eight.
    """
    fitting = host_memory_mib * 3 // 4 // compile_memory_mib
    return max(2, min(fitting, processors + 1, _MOST))


async def _end_tasks(tasks: set[asyncio.Task[Entry]]) -> None:
    for task in tasks:
        # Only once: a second cancellation would interrupt its clean-up.
        if not task.done() and not task.cancelling():
            task.cancel()
    if tasks:
        await asyncio.wait(set(tasks))
