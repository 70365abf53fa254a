"""Runs a compiler: from a command line to its status and its output.

Never uses a shell. Limited in time and in kept output, and leaves no process running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import DeadlineExceeded, Unsupported

KEPT_BYTES = 64 * 1024
_CHUNK_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        output: the last `KEPT_BYTES` of its stdout and stderr, in the order written.
    """

    status: int
    output: str


async def run(
    argv: Sequence[str], *, cwd: Path, variables: Mapping[str, str], timeout_s: float
) -> Finished:
    """Run a program to its end and return the result.

    It gets no stdin and exactly `variables`. If the time is over, or the caller is cancelled, the
    program and every child of it in its session are killed first. Raises `DeadlineExceeded`, and
    `Unsupported` if the program cannot be started.
    """
    process = await _start(argv, cwd, variables)
    over = False
    try:
        async with asyncio.timeout(timeout_s):
            output = await _read_tail(process)
            status = await process.wait()
        over = True
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"{Path(argv[0]).name} did not finish within {timeout_s:g} s",
            hint="is the host busy? In Python, code at the top of a file runs while it is built",
        ) from exc
    finally:
        if not over:
            await _kill(process)
    return Finished(status, output.decode("utf-8", "replace"))


async def _start(
    argv: Sequence[str], cwd: Path, variables: Mapping[str, str]
) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(variables),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # If asyncio itself were cancelled, it would kill the program and forget its children.
        with contextlib.suppress(OSError):
            await _kill(await starting)
        raise
    except OSError as exc:
        raise Unsupported(f"{argv[0]} cannot be started: {exc.strerror}") from exc


async def _read_tail(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    tail = b""
    while chunk := await process.stdout.read(_CHUNK_BYTES):
        tail = (tail + chunk)[-KEPT_BYTES:]
    return tail


async def _kill(process: asyncio.subprocess.Process) -> None:
    # Also if the program itself has ended: a child that holds the output lives on, and as long as
    # one of them lives, nobody else gets the number of their group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Short, because it was killed; interrupted, it would leave a zombie.
    await asyncio.shield(process.wait())
