"""The compiler as a limited child process: its command line, its limits, its answer.

A hostile file can cost the compiler time and memory, so it never runs in the node's own process.
This module starts and ends the child and turns each of its ends into a report or an error. `report`
interprets the report; `artifact_inspection` defines the command line and the answer.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from plexspaces_node.artifact_inspection import (
    ENVIRONMENT,
    REPORT_LIMIT_BYTES,
    Inspection,
    bounds,
    read_answer,
)
from plexspaces_node.errors import (
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from plexspaces_node.model import MIB
from plexspaces_node.node.artifacts.upload import TEMPORARY
from plexspaces_node.node.disk import FULL_SIGNS, DiskFull, is_full
from plexspaces_node.vm.host.process import signal_name

_COMPLAINT_BYTES = 4096

_MEMORY_SIGNS = (
    "memory allocation of",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment",
    "resource temporarily unavailable",
)
"""Messages of Rust, the loader and a thread that cannot start if memory is short."""


@dataclass(frozen=True, slots=True)
class CompileLimits:
    """Limits of one compilation.

    Attributes:
        timeout_s: wall time; the CPU time limit is this on every CPU.
        memory_mib: private memory of the compiler's process.
        at_once: concurrent compilations; others wait, and waiting does not count.
    """

    timeout_s: float = 300.0
    memory_mib: int = 4096
    at_once: int = 2


async def inspect(
    program: Sequence[str], source: Path, scratch: Path, *, limits: CompileLimits
) -> Inspection:
    """Inspect a file's own sections in a child process, without compiling.

    `scratch` is a directory for the process's output. Raises what `compile_to` raises.
    """
    options = _options(limits, output_limit_bytes=REPORT_LIMIT_BYTES + _COMPLAINT_BYTES)
    command = [*program, *options, "inspect", str(source)]
    return await _run(command, scratch, limits)


async def compile_to(
    program: Sequence[str],
    source: Path,
    output: Path,
    *,
    limits: CompileLimits,
    output_limit_bytes: int,
) -> Inspection:
    """Compile `source` to `output` in a child process and return the report.

    No process is left in any case; `output` may exist partially, and the caller removes it. Raises
    the error with which the compiler refused the file, `ResourceExhausted` with the limit and the
    setting that raises it, `InvalidArgument` if the file crashed the compiler, `Unsupported` if the
    compiler cannot be started, `Internal` if its answer cannot be read, and `DiskFull`.
    """
    options = _options(limits, output_limit_bytes=output_limit_bytes)
    command = [*program, *options, "compile", str(source), str(output)]
    return await _run(command, output.parent, limits)


async def _run(command: Sequence[str], scratch: Path, limits: CompileLimits) -> Inspection:
    # Files and not pipes: nothing can block on them, and reading them is limited.
    try:
        with (
            tempfile.TemporaryFile(dir=scratch, prefix=TEMPORARY) as answer,
            tempfile.TemporaryFile(dir=scratch, prefix=TEMPORARY) as complaint,
        ):
            # So that a compiler that fills the disk can still report it.
            os.posix_fallocate(complaint.fileno(), 0, _COMPLAINT_BYTES)
            status = await _run_to_end(command, answer, complaint, limits.timeout_s)
            said = _last_written(complaint).decode("utf-8", "replace")
            answer.seek(0)
            found = answer.read(REPORT_LIMIT_BYTES + 1)
    except OSError as error:
        if is_full(error):
            raise DiskFull(scratch) from error
        raise Unavailable(
            f"the compiler cannot be run: {error.strerror}", hint="plexspaces doctor"
        ) from error
    if status != 0:
        if any(sign in said for sign in FULL_SIGNS):
            raise DiskFull(scratch)
        raise _broken(status, said, limits)
    try:
        return read_answer(found)
    except PlexSpacesError as error:
        if _tells_of_memory(error.message):
            raise _out_of_memory(limits) from error
        raise


def _last_written(file: IO[bytes]) -> bytes:
    # The child shares the file's position, which is where its output ends; the file may be longer.
    end = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    begin = max(0, end - _COMPLAINT_BYTES)
    return os.pread(file.fileno(), end - begin, begin)


def _options(limits: CompileLimits, *, output_limit_bytes: int) -> list[str]:
    return bounds(
        memory_bytes=limits.memory_mib * MIB,
        cpu_s=math.ceil(limits.timeout_s) * (os.cpu_count() or 1),
        file_bytes=output_limit_bytes,
    )


async def _run_to_end(
    command: Sequence[str], answer: IO[bytes], complaint: IO[bytes], timeout_s: float
) -> int | None:
    """Run a command in its own process group; return its status, None if it timed out."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=answer,
            stderr=complaint,
            env=ENVIRONMENT,
            umask=0o077,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Unsupported(
            f"the compiler {command[0]} is missing", hint="plexspaces doctor"
        ) from error
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        # Always the whole group: the compiler may have left children.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _broken(status: int | None, said: str, limits: CompileLimits) -> PlexSpacesError:
    if status is None or status == -signal.SIGXCPU:
        return ResourceExhausted(
            f"compiling the artifact took more than {limits.timeout_s:g} s",
            hint="raise [limits] compile_timeout_s, or deploy a smaller artifact",
        )
    if _tells_of_memory(said):
        return _out_of_memory(limits)
    if status == -signal.SIGKILL:
        return ResourceExhausted(
            "the compiler was killed: the host ran out of memory",
            hint="free memory on the host, or deploy a smaller artifact",
        )
    end = f"exit status {status}" if status > 0 else signal_name(-status)
    return InvalidArgument(
        f"the compiler failed on the artifact ({end}): {_last_line(said)}",
        hint="build the artifact again; `plexspaces doctor` shows whether the compiler works",
    )


def _out_of_memory(limits: CompileLimits) -> ResourceExhausted:
    return ResourceExhausted(
        f"compiling the artifact needs more than {limits.memory_mib} MiB of memory",
        hint="raise [limits] compile_memory_mib, or deploy a smaller artifact",
    )


def _tells_of_memory(text: str) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in _MEMORY_SIGNS)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "no output"
