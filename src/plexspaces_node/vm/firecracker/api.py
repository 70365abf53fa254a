"""Firecracker's API: the requests that this product uses, and their connection.

Pure functions make the requests; the connection is HTTP/1.1 on the unix socket of a Firecracker
process, one request at a time. This module knows neither VMs nor the order of the requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import MIB, VmConfig

GUEST_CID = 3
"""The guest's own vsock address: the same for all, because each VM has its own device."""

DRIVE_BYTES_PER_S = 1024 * MIB
DRIVE_OPERATIONS_PER_S = 100_000
"""The rate limit of one drive: far more than a boot needs, but not unlimited."""

_HEAD_LIMIT_BYTES = 16 * 1024
_BODY_LIMIT_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("3i")


class Action(StrEnum):
    """What a VM can be told to do."""

    START = "InstanceStart"
    CTRL_ALT_DEL = "SendCtrlAltDel"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One call of the API.

    Attributes:
        body: a JSON object, or None for a request that has none.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def instance_info() -> ApiRequest:
    """Ask for the process's identity: the answer holds `id`, `state` and `vmm_version`."""
    return ApiRequest("GET", "/")


def machine_config(config: VmConfig) -> ApiRequest:
    """Set the VM's size; before it starts."""
    body = {"vcpu_count": config.vcpus, "mem_size_mib": config.memory_mib, "smt": False}
    return ApiRequest("PUT", "/machine-config", body)


def boot_source(*, kernel: str, initrd: str, arguments: str) -> ApiRequest:
    """Set what to boot; before the VM starts."""
    body = {"kernel_image_path": kernel, "initrd_path": initrd, "boot_args": arguments}
    return ApiRequest("PUT", "/boot-source", body)


def drive(drive_id: str, path: str) -> ApiRequest:
    """Add a read-only drive; before the VM starts. The first one is the guest's vda."""
    body = {
        "drive_id": drive_id,
        # The initial RAM disk mounts the root; with one, the VMM accepts no root device.
        "is_root_device": False,
        "is_read_only": True,
        "path_on_host": path,
        "rate_limiter": {
            "bandwidth": {"size": DRIVE_BYTES_PER_S, "refill_time": 1000},
            "ops": {"size": DRIVE_OPERATIONS_PER_S, "refill_time": 1000},
        },
    }
    return ApiRequest("PUT", f"/drives/{drive_id}", body)


def change_drive(drive_id: str, path: str) -> ApiRequest:
    """Put another file behind a drive; after the VM has started."""
    return ApiRequest("PATCH", f"/drives/{drive_id}", {"drive_id": drive_id, "path_on_host": path})


def vsock(path: str) -> ApiRequest:
    """Add the vsock device; before the VM starts.

    A guest that connects to port P of the host reaches the unix socket `path`_P.
    """
    return ApiRequest("PUT", "/vsock", {"guest_cid": GUEST_CID, "uds_path": path})


def act(action: Action) -> ApiRequest:
    """Tell the VM to start, or to press Ctrl-Alt-Del in its guest."""
    return ApiRequest("PUT", "/actions", {"action_type": action.value})


class FirecrackerApi:
    """A connection to one Firecracker process: `async with FirecrackerApi(path, pid=...) as api`.

    Belongs to one task. Unusable after an error.
    """

    def __init__(self, path: Path, *, pid: int) -> None:
        """Set the socket, and the process that must be serving it."""
        self._path = path
        self._pid = pid
        self._reader: StreamReader | None = None
        self._writer: StreamWriter | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises `OSError` if nobody listens yet, `Unavailable` for another process."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_HEAD_LIMIT_BYTES)
        self._reader, self._writer = reader, writer
        served_by = _peer_pid(writer.get_extra_info("socket"))
        if served_by != self._pid:
            await _close(writer)
            raise Unavailable(
                f"{self._path} is served by process {served_by}, not by process {self._pid}"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._writer is not None
        await _close(self._writer)

    async def call(self, request: ApiRequest, timeout_s: float) -> Mapping[str, Any]:
        """Send a request and return the object in its answer, or an empty one.

        Raises `Unavailable`, with the reason, if Firecracker refuses or is gone, and
        `DeadlineExceeded` if it does not answer within `timeout_s` seconds.
        """
        assert self._reader is not None
        assert self._writer is not None
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(_encode(request))
                await self._writer.drain()
                status, body = await _read_response(self._reader)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"firecracker did not answer {request} within {timeout_s:g} s"
            ) from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"firecracker gave no valid answer to {request}: {error}") from error
        if not 200 <= status < 300:
            why = body.get("fault_message", f"status {status}")
            raise Unavailable(f"firecracker refused {request}: {why}")
        return body


async def _close(writer: StreamWriter) -> None:
    # At once: unsent data is of no use.
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def _peer_pid(connection: socket.socket) -> int:
    size = _CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def _encode(request: ApiRequest) -> bytes:
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: localhost\r\n"
    if request.body is None:
        return f"{head}\r\n".encode("ascii")
    body = json.dumps(request.body).encode("ascii")
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return os.fsencode(head) + body


async def _read_response(reader: StreamReader) -> tuple[int, Mapping[str, Any]]:
    """Read one answer; raises `ValueError` if it is not one, `EOFError`, `OSError`."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{first[:80]!r} is not an HTTP response")
    headers = {name.strip().lower(): value.strip() for name, _, value in map(_field, lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _BODY_LIMIT_BYTES:
        raise ValueError(f"an answer of {length} bytes is too long")
    text = await reader.readexactly(length)
    body = json.loads(text) if text.strip() else {}
    return int(rest[:3]), body if isinstance(body, dict) else {}


def _field(line: str) -> tuple[str, str, str]:
    return line.partition(":")
