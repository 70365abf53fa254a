"""The command line and the answers of `plexspaces-compile`, which inspects WebAssembly files.

Node and client use the same program, so an artifact that a node would refuse is refused before it
is uploaded, with the same message. Whoever starts the program also ends it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    NotFound,
    platform_error,
)
from plexspaces_node.model import MIB, ArtifactKind
from plexspaces_node.programs import compiler_program

ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8"}
"""The environment of the program, which needs none."""

REPORT_LIMIT_BYTES = 1 * MIB
"""The maximum length of an answer."""

_MESSAGE_LIMIT = 2000
_FILES = 64

_CLIENT_TIMEOUT_S = 60
_CLIENT_MEMORY_BYTES = 2048 * MIB


class Inspection(msgspec.Struct, frozen=True):
    """A file that can run here; names are as in the binary.

    Attributes:
        memory_bytes: the linear memory that it has from the start.
    """

    kind: ArtifactKind
    languages: list[str] = []
    processed_by: list[str] = []
    imports: list[str] = []
    exports: list[str] = []
    memory_bytes: int = 0


class _Refusal(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    ok: bool


def bounds(*, memory_bytes: int, cpu_s: int, file_bytes: int) -> list[str]:
    """Return the options that limit the program's resources and make it end with this process.

    `memory_bytes` limits private memory, `cpu_s` the time of all its threads together, `file_bytes`
    each file that it writes.
    """
    limits = {
        "--memory-bytes": memory_bytes,
        "--cpu-s": cpu_s,
        "--file-bytes": file_bytes,
        "--files": _FILES,
        "--parent": os.getpid(),
    }
    return [word for name, value in limits.items() for word in (name, str(value))]


def read_answer(answer: bytes) -> Inspection:
    """Return the program's answer about a file.

    Raises the error with which the program refused the file, `InvalidArgument` for an answer that
    is too long, and `Internal` for one that cannot be read.
    """
    if len(answer) > REPORT_LIMIT_BYTES:
        raise InvalidArgument(
            f"the names of its imports and exports take more than {REPORT_LIMIT_BYTES} bytes",
            hint="export only what wit/application.wit names",
        )
    try:
        if msgspec.json.decode(answer, type=_Answer).ok:
            return msgspec.json.decode(answer, type=Inspection)
        refusal = msgspec.json.decode(answer, type=_Refusal)
    except msgspec.DecodeError as error:
        raise Internal(
            f"the compiler's answer cannot be read: {error}", hint="plexspaces doctor"
        ) from error
    raise platform_error(refusal.code, refusal.message[:_MESSAGE_LIMIT], hint=refusal.hint)


async def inspect(
    artifact: bytes, *, find_program: Callable[[], Path] = compiler_program
) -> Inspection | None:
    """Inspect a file with the program of this installation.

    Raises the error with which it refuses the file. Returns None if the program is missing, or if
    the file made it end: the node has its own limits and messages for that.
    """
    return await asyncio.to_thread(_inspect, artifact, find_program)


def _inspect(artifact: bytes, find_program: Callable[[], Path]) -> Inspection | None:
    limits = bounds(memory_bytes=_CLIENT_MEMORY_BYTES, cpu_s=_CLIENT_TIMEOUT_S, file_bytes=0)
    try:
        command = [str(find_program()), *limits, "inspect", "/dev/stdin"]
        done = subprocess.run(
            command,
            input=artifact,
            capture_output=True,
            env=ENVIRONMENT,
            timeout=_CLIENT_TIMEOUT_S,
            check=True,
        )
    except (NotFound, OSError, subprocess.SubprocessError):
        return None
    return read_answer(done.stdout)


def check_memory(inspected_bytes: int, *, memory_mib: int, overhead_mib: int) -> None:
    """Raise `InvalidArgument` if the memory that an artifact has from the start exceeds its VM's.

    `overhead_mib` is the part of the VM's memory that is not for the application.
    """
    if inspected_bytes <= (memory_mib - overhead_mib) * MIB:
        return
    wanted_mib = -(-inspected_bytes // MIB)
    raise InvalidArgument(
        f"it has {wanted_mib} MiB of memory from its start, but of its VM's {memory_mib} MiB an "
        f"application gets {memory_mib - overhead_mib}",
        hint=f"deploy it with --memory {wanted_mib + overhead_mib}, or make it declare less",
    )
