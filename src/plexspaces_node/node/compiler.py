"""The compiler as a bounded child process: its command line, its limits, its one answer.

Compiling is where a hostile file can cost time and memory, so it never happens in the node's own
process. This file owns how the child is started and ended, and turns each way it can end into a
report or an error; what the report means for artifacts is `artifacts`' business.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    platform_error,
)
from plexspaces_node.model import MIB, ArtifactKind
from plexspaces_node.node.disk import FULL_SIGNS, DiskFull, is_full
from plexspaces_node.node.incoming import TEMPORARY
from plexspaces_node.vm.host_process import signal_name

COMPILER = (sys.executable, "-I", "-m", "plexspaces_node.agent.compile")
"""The compiler's command line; the source and the target are appended."""

_REPORT_LIMIT_BYTES = 1 * MIB
_COMPLAINT_BYTES = 4096
_MESSAGE_LIMIT = 2000

_MEMORY_SIGNS = (
    "memoryerror",
    "memory allocation of",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "failed to map segment",
    "resource temporarily unavailable",
)
"""What Python, Rust, C++, the loader and a thread that cannot start say when memory is short."""


@dataclass(frozen=True, slots=True)
class CompileLimits:
    """Bounds of one compilation.

    Attributes:
        timeout_s: wall time; the CPU time allowed is this on every CPU.
        memory_mib: private memory of the compiler's process.
        at_once: compilations at the same time; others wait, and waiting is not counted.
    """

    timeout_s: float = 300.0
    memory_mib: int = 4096
    at_once: int = 1


class CompilerReport(msgspec.Struct, frozen=True):
    """What the compiler says of a file it has compiled; names are as in the binary."""

    kind: ArtifactKind
    languages: list[str] = []
    processed_by: list[str] = []
    imports: list[str] = []
    exports: list[str] = []


class _Refusal(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    ok: bool


async def run_compiler(
    command: Sequence[str],
    source: Path,
    output: Path,
    *,
    limits: CompileLimits,
    output_limit_bytes: int,
) -> CompilerReport:
    """Compile `source` to `output` in a child process and return what it is.

    However this ends, no process is left; `output` may be there in part, the caller removes it.
    Raises what the compiler refused the file with, `ResourceExhausted` naming the limit and the
    setting that raises it, `InvalidArgument` when the file broke the compiler, `Unsupported` when
    the compiler cannot be started and `Internal` when its answer makes no sense. `DiskFull` is
    the limit that the disk is.
    """
    bounded = [*_bounds(limits, output_limit_bytes), *command, str(source), str(output)]
    # Files and not pipes: nothing can block on them, and what is read of them is bounded.
    try:
        with (
            tempfile.TemporaryFile(dir=output.parent, prefix=TEMPORARY) as answer,
            tempfile.TemporaryFile(dir=output.parent, prefix=TEMPORARY) as complaint,
        ):
            # So that a compiler that fills the disk has room left to say so.
            os.posix_fallocate(complaint.fileno(), 0, _COMPLAINT_BYTES)
            status = await _run_to_end(bounded, answer, complaint, limits.timeout_s)
            said = _last_written(complaint).decode("utf-8", "replace")
            answer.seek(0)
            found = answer.read(_REPORT_LIMIT_BYTES + 1)
    except OSError as error:
        if is_full(error):
            raise DiskFull(output.parent) from error
        raise Unavailable(
            f"the compiler cannot be run: {error.strerror}", hint="plexspaces doctor"
        ) from error
    if status != 0:
        if any(sign in said for sign in FULL_SIGNS):
            raise DiskFull(output.parent)
        raise _broken(status, said, limits)
    return _read_answer(found, limits)


def _last_written(file: IO[bytes]) -> bytes:
    # The child shares the file's position, which is where its words end; the file may be longer.
    end = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    begin = max(0, end - _COMPLAINT_BYTES)
    return os.pread(file.fileno(), end - begin, begin)


def _bounds(limits: CompileLimits, output_limit_bytes: int) -> list[str]:
    cpu_s = math.ceil(limits.timeout_s) * (os.cpu_count() or 1)
    return [
        # Dies with the node, also when the node is killed.
        *("setpriv", "--pdeathsig", "KILL", "--"),
        "prlimit",
        f"--data={limits.memory_mib * MIB}",
        # The soft limit's signal tells that it was the time; the hard one's would not.
        f"--cpu={cpu_s}:{cpu_s + 1}",
        f"--fsize={output_limit_bytes}",
        "--core=0",
        "--nofile=64",
        "--",
    ]


async def _run_to_end(
    command: Sequence[str], answer: IO[bytes], complaint: IO[bytes], timeout_s: float
) -> int | None:
    """Run a command in a process group of its own; return its status, None when out of time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=answer,
            stderr=complaint,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            umask=0o077,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Unsupported(
            f"{command[0]} is not installed", hint="apt-get install util-linux"
        ) from error
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        # The whole group and in every case: the compiler may have left children.
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
            "the compiler was killed: the machine ran out of memory",
            hint="free memory on the machine, or deploy a smaller artifact",
        )
    if status in (126, 127):
        return Unsupported(
            f"the compiler cannot be started: {_last_line(said)}", hint="plexspaces doctor"
        )
    end = f"exit status {status}" if status > 0 else signal_name(-status)
    return InvalidArgument(
        f"the compiler failed on the artifact ({end}): {_last_line(said)}",
        hint="build the artifact again; `plexspaces doctor` tells whether the compiler works",
    )


def _read_answer(answer: bytes, limits: CompileLimits) -> CompilerReport:
    if len(answer) > _REPORT_LIMIT_BYTES:
        raise InvalidArgument(
            f"the names of its imports and exports fill more than {_REPORT_LIMIT_BYTES} bytes",
            hint="export only what wit/application.wit names",
        )
    try:
        if msgspec.json.decode(answer, type=_Answer).ok:
            return msgspec.json.decode(answer, type=CompilerReport)
        refusal = msgspec.json.decode(answer, type=_Refusal)
    except msgspec.DecodeError as error:
        raise Internal(
            f"the compiler's answer cannot be read: {error}", hint="plexspaces doctor"
        ) from error
    if _tells_of_memory(refusal.message):
        raise _out_of_memory(limits)
    raise platform_error(refusal.code, refusal.message[:_MESSAGE_LIMIT], hint=refusal.hint)


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
    return lines[-1][:500] if lines else "it said nothing"
