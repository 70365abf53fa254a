"""A child process and its descendants: started, watched and ended without races.

This module has what every driver needs that runs a VM as a process of the host. It knows nothing of
VMs. asyncio's own subprocesses are not used because they reap the child as soon as it ends: then
its group could not be killed safely any more, since the pid may already belong to another process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from plexspaces_node.errors import NotFound, Unavailable
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.procfs import ProcessId

_KILL_TIMEOUT_S = 10.0
"""A killed process is gone within milliseconds unless it is blocked in the kernel."""


class HostProcess:
    """A process that leads its own session. Belongs to the event loop in which it was created.

    Attributes:
        marks: arguments that all its descendants have and no other process of the host has. They
            identify a descendant whose parent has died.
        alone: it cannot start others, so none are searched for: a search scans /proc.
    """

    def __init__(
        self,
        identity: ProcessId,
        marks: tuple[str, ...],
        child: subprocess.Popen[bytes] | None,
        *,
        alone: bool = False,
    ) -> None:
        """Watch a process; use `spawn` or `adopt`."""
        self.identity = identity
        self.marks = marks
        self.alone = alone
        self._child = child
        self._pidfd = os.pidfd_open(identity.pid)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._on_end)

    @classmethod
    def spawn(  # noqa: PLR0913 - all that a process is given, each by its name
        cls,
        argv: Sequence[str],
        *,
        marks: tuple[str, ...],
        env: Mapping[str, str],
        cwd: Path,
        output: Path,
        descriptors: Sequence[int] = (),
        alone: bool = False,
    ) -> HostProcess:
        """Start a process in a new session; its output is appended to the file `output`.

        It inherits `descriptors`, under their numbers, and no others, and its input is empty.
        Blocks until the program is executed, about a millisecond. Must be called on a thread that
        lives as long as the node, such as the event loop's: a death signal set with
        PR_SET_PDEATHSIG is sent when the *thread* that started the process ends. Raises `OSError`.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(output, flags, 0o600)
        try:
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
            )
        finally:
            os.close(log)
        identity = procfs.identify(child.pid, zombie=True)
        assert identity is not None, "nobody else reaps the child"
        try:
            return cls(identity, marks, child, alone=alone)
        except OSError:
            child.kill()
            child.wait()
            raise

    @classmethod
    def adopt(cls, identity: ProcessId, marks: tuple[str, ...]) -> HostProcess:
        """Watch a process started by another one; raises `NotFound` if it has ended."""
        try:
            process = cls(identity, marks, None)
        except ProcessLookupError:
            raise NotFound(f"process {identity.pid} has ended") from None
        # Checked only when the descriptor is open, so that the pid cannot change its meaning.
        if procfs.identify(identity.pid) != identity:
            process._forget()
            raise NotFound(f"process {identity.pid} has ended")
        return process

    @property
    def ended(self) -> bool:
        """Whether the end of the process has been seen."""
        return self._ended.done()

    def when_ended(self, act: Callable[[], object]) -> None:
        """Call `act` on the loop soon after the end of the process is seen."""
        self._ended.add_done_callback(lambda _: act())

    async def wait(self) -> int | None:
        """Wait for the end; return the status as `subprocess` does, None for an adopted process.

        Several tasks can wait, also repeatedly.
        """
        return await asyncio.shield(self._ended)

    async def ended_within(self, timeout_s: float) -> bool:
        """Wait for the end at most this long; return whether it has come."""
        await asyncio.wait([self._ended], timeout=timeout_s)
        return self._ended.done()

    def terminate(self) -> None:
        """Send SIGTERM to the group, unless it has ended."""
        if not self.ended:
            self._signal_group(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the process and its descendants; return when none of them runs. Idempotent.

        Raises `Unavailable` if the kernel does not end one of them within seconds.
        """
        if self.alone:
            if not self.ended:
                _kill(self.identity.pid, self._pidfd)
                if not await self.ended_within(_KILL_TIMEOUT_S):
                    raise _does_not_end(self.identity.pid)
            return
        # Repeatedly, because a killed process may have been starting another one.
        while found := await asyncio.to_thread(self._members):
            await kill_all(found)
        await self.wait()

    def _members(self) -> list[ProcessId]:
        related = [] if self.ended else procfs.tree(self.identity.pid)
        return related + procfs.with_arguments(*self.marks)

    def _on_end(self) -> None:
        # The child is a zombie until it is reaped below: its pid still names its group.
        self._signal_group(signal.SIGKILL)
        status = self._child.wait() if self._child is not None else None
        self._forget()
        self._ended.set_result(status)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._child is not None or procfs.identify(self.identity.pid) == self.identity:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.identity.pid, number)

    def _forget(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)

    def __repr__(self) -> str:
        return f"HostProcess(pid={self.identity.pid}, ended={self.ended})"


async def kill_all(identities: Sequence[ProcessId]) -> None:
    """Kill processes, which need not be children, and wait until each has ended.

    Skips those that have already ended. Raises `Unavailable` after some seconds.
    """
    descriptors = {}
    for identity in set(identities):
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(identity.pid)
            if procfs.identify(identity.pid) == identity:
                descriptors[identity.pid] = descriptor
            else:
                os.close(descriptor)
    try:
        for pid, descriptor in descriptors.items():
            _kill(pid, descriptor)
        for pid, descriptor in descriptors.items():
            await _ended(pid, descriptor)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _kill(pid: int, descriptor: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise Unavailable(
            f"process {pid} belongs to another user and cannot be killed",
            hint=f"end it as its owner or as root: kill -9 {pid}",
        ) from error


async def _ended(pid: int, descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(_KILL_TIMEOUT_S):
            await readable.wait()
    except TimeoutError as error:
        raise _does_not_end(pid) from error
    finally:
        loop.remove_reader(descriptor)


def _does_not_end(pid: int) -> Unavailable:
    return Unavailable(
        f"process {pid} was killed but has not exited",
        hint=f"see what it waits for in the kernel: cat /proc/{pid}/wchan",
    )


def signal_name(number: int) -> str:
    """Return a signal's name; not every number that can end a process has one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
