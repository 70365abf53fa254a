"""A stand-in for Firecracker: its command line and its API, without a virtual machine.

Strict where Firecracker is: an unknown path, field or state is refused with its kind of answer,
and what belongs before the boot is not taken after it. Its guest is a stand-in for the agent that
dials the vsock port the kernel's command line names, says hello and does what it is told, or, with
`--hello`, says just that. SIGUSR1 is a guest that restarts, SIGUSR2 one that panics, which is the
same to Firecracker. Run as a program: `fake_firecracker.py [--fail CALL] [--hang CALL] ...
FIRECRACKER'S OWN ARGUMENTS`, where a CALL is for example `PUT /vsock`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

FIELDS: dict[str, dict[str, tuple[type, bool]]] = {
    "PUT /machine-config": {
        "vcpu_count": (int, True),
        "mem_size_mib": (int, True),
        "smt": (bool, False),
    },
    "PUT /boot-source": {
        "kernel_image_path": (str, True),
        "initrd_path": (str, False),
        "boot_args": (str, False),
    },
    "PUT /drives": {
        "drive_id": (str, True),
        "is_root_device": (bool, True),
        "is_read_only": (bool, False),
        "path_on_host": (str, False),
        "rate_limiter": (dict, False),
    },
    "PATCH /drives": {"drive_id": (str, True), "path_on_host": (str, False)},
    "PUT /vsock": {"guest_cid": (int, True), "uds_path": (str, True)},
    "PUT /actions": {"action_type": (str, True)},
}
"""For each call its fields: their type, and whether they must be there."""

AFTER_BOOT = ("PATCH /drives",)
ACTIONS = ("InstanceStart", "SendCtrlAltDel", "FlushMetrics")
FIRST_FREE_CID = 3
NOBODY = b"vm-00000000"
"""What stands in the hello for the machine's id."""


class Refused(Exception):
    """A request that Firecracker would answer with status 400."""


@dataclass
class State:
    """What the fake has been told."""

    vm_id: str
    calls: list[str] = field(default_factory=list)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    drives: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: bool = False


class FakeFirecracker:
    """The API of one process, and the machine behind it."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take what it is to do wrong from the command line."""
        self.state = State(options.id)
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> NoReturn:
        """Serve the API for ever."""
        api = Path(self._options.api_sock)
        if api.exists():
            sys.exit(f"Failed to open the API socket at: {api}")
        server = await asyncio.start_unix_server(self._accept, api)
        async with server:
            await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    def handle(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Do what a request asks, or raise `Refused`."""
        if (method, path, body) == ("GET", "/", None):
            state = "Running" if self.state.running else "Not started"
            return {
                "id": self.state.vm_id,
                "state": state,
                "vmm_version": self._options.release,
                "app_name": "Firecracker",
            }
        resource = "/" + path.split("/")[1]
        call = f"{method} {resource}"
        self._check_fields(call, path, body)
        assert body is not None
        if self.state.running and call not in (*AFTER_BOOT, "PUT /actions"):
            raise Refused("The requested operation is not supported after starting the microVM.")
        if not self.state.running and call in AFTER_BOOT:
            raise Refused("The requested operation is not supported before starting the microVM.")
        self._do(call, body)
        self.state.bodies[call] = body
        return {}

    @staticmethod
    def _check_fields(call: str, path: str, body: dict[str, Any] | None) -> None:
        if call not in FIELDS or body is None:
            raise Refused(f"Invalid request method and/or path: {call}.")
        known = FIELDS[call]
        for name, value in body.items():
            if name not in known:
                raise Refused(f"unknown field `{name}`, expected one of {', '.join(known)}")
            if type(value) is not known[name][0]:
                raise Refused(f"invalid type for `{name}`")
        for name, (_, needed) in known.items():
            if needed and name not in body:
                raise Refused(f"missing field `{name}`")
        if "drive_id" in body and path != f"/drives/{body['drive_id']}":
            raise Refused("The id from the path does not match the id from the body!")

    def _do(self, call: str, body: dict[str, Any]) -> None:
        match call:
            case "PUT /drives" | "PATCH /drives":
                self._check_drive(call, body)
                self.state.drives[body["drive_id"]] = body
            case "PUT /vsock":
                if body["guest_cid"] < FIRST_FREE_CID:
                    raise Refused("invalid guest_cid")
            case "PUT /boot-source":
                for name in ("kernel_image_path", "initrd_path"):
                    if not os.access(body[name], os.R_OK):
                        raise Refused(f"The file {body[name]} cannot be opened")
            case "PUT /actions":
                self._act(body["action_type"])

    def _check_drive(self, call: str, body: dict[str, Any]) -> None:
        if call == "PATCH /drives" and body["drive_id"] not in self.state.drives:
            raise Refused(f"Unable to patch the block device: no {body['drive_id']}")
        if not os.access(body["path_on_host"], os.R_OK):
            raise Refused(f"No such file: {body['path_on_host']}")
        if body.get("is_root_device"):
            raise Refused("A root block device and an initrd exclude each other")

    def _act(self, action: str) -> None:
        if action not in ACTIONS:
            raise Refused(f"unknown variant `{action}`")
        if action == "InstanceStart":
            if self.state.running:
                raise Refused("The microVM has already been started.")
            missing = {"PUT /boot-source", "PUT /machine-config"} - set(self.state.bodies)
            if missing:
                raise Refused(f"cannot start without {', '.join(sorted(missing))}")
            self.state.running = True
            if not self._options.deaf_guest:
                self._run(self._guest())
        elif not self.state.running:
            raise Refused("The requested operation is not supported before starting the microVM.")
        elif action == "SendCtrlAltDel" and not self._options.deaf_guest:
            self._run(self._end(0))

    async def _guest(self) -> None:
        if self._options.panic:
            panic()
        words = dict(
            word.partition("=")[::2]
            for word in self.state.bodies["PUT /boot-source"]["boot_args"].split()
        )
        _, _, port = words["plexspaces.link"].split(":")
        uds_path = self.state.bodies["PUT /vsock"]["uds_path"]
        try:
            reader, writer = await asyncio.open_unix_connection(f"{uds_path}_{port}")
        except OSError:
            return
        vm_id = words["plexspaces.vm"]
        if self._options.hello:
            hello = bytes.fromhex(self._options.hello)
            writer.write(hello.replace(NOBODY, vm_id.encode()))
            await reader.read()
            return
        writer.write(f"hello {vm_id}\n".encode())
        while line := (await reader.readline()).decode().split():
            if line[0] == "exit":
                await self._end(int(line[1]))

    async def _end(self, status: int) -> None:
        # After the answer to the request that asked for it.
        await asyncio.sleep(0.01)
        os._exit(status)

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, version = head[0].split(" ")
        fields = {name.lower(): value.strip() for name, _, value in map(_partition, head[1:])}
        text = await reader.readexactly(int(fields.get("content-length", "0")))
        call = f"{method} {path}"
        self.state.calls.append(call)
        if version != "HTTP/1.1" or call == self._options.fail:
            return _respond(writer, "400 Bad Request", {"fault_message": f"told to fail {call}"})
        if call == self._options.die:
            os._exit(7)
        if call == self._options.hang:
            await asyncio.get_running_loop().create_future()
        if call == self._options.garble:
            writer.write(b"garbage\r\n\r\n")
            return False
        try:
            answer = self.handle(method, path, json.loads(text) if text else None)
        except Refused as refused:
            return _respond(writer, "400 Bad Request", {"fault_message": str(refused)})
        return _respond(writer, "200 OK" if answer else "204 No Content", answer)


def _partition(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _respond(writer: StreamWriter, status: str, body: dict[str, Any]) -> bool:
    text = json.dumps(body) if body else ""
    head = f"HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    if text:
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    writer.write(f"{head}\r\n{text}".encode())
    return True


def panic(*_: object) -> None:
    """Be a guest whose kernel panics, which resets it."""
    sys.stderr.write("[    9.1] Kernel panic - not syncing: told to\n[    9.1] CR2: 0\n")
    sys.stderr.flush()
    os._exit(0)


def restart(*_: object) -> None:
    """Be a guest that restarts."""
    os._exit(0)


def main() -> None:
    """Be Firecracker."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--fail", help="the call to refuse")
    parser.add_argument("--hang", help="the call never to answer")
    parser.add_argument("--die", help="the call to end at, with status 7")
    parser.add_argument("--garble", help="the call to answer with what is no HTTP")
    parser.add_argument("--deaf-guest", action="store_true", help="a guest that does nothing")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--hello", help="what the guest says, in hexadecimal digits")
    parser.add_argument("--panic", action="store_true", help="a guest that panics as it boots")
    parser.add_argument("--once", help="a file: faults of the guest happen while it is not there")
    parser.add_argument("--no-api", action="store_true", help="never serve the API")
    parser.add_argument("--release", default="1.16.1")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--id")
    parser.add_argument("--api-sock")
    parser.add_argument("--level", choices=["Error", "Warning", "Info", "Debug", "Trace", "Off"])
    parser.add_argument("--no-seccomp", action="store_true")
    parser.add_argument("ignored", nargs="*", help="what follows `--`")
    options = parser.parse_args()
    if options.version:
        sys.stdout.write(f"Firecracker v{options.release}\n\n")
        return
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, restart)
    signal.signal(signal.SIGUSR2, panic)
    if options.die == "start":
        sys.exit("told to die")
    if options.no_api:
        signal.pause()
    if options.once is not None and options.id is not None:
        options.deaf_guest = options.deaf_guest and not os.path.exists(options.once)
        Path(options.once).touch()
    asyncio.run(FakeFirecracker(options).serve())


if __name__ == "__main__":
    main()
