"""A stand-in for QEMU: its command line and its control protocol, without a virtual machine.

Strict where QEMU is: an option or command it does not know is refused, nothing is done before the
capabilities are negotiated, a kernel that is none is not loaded, and only a state that one of its
kind has saved is taken up. Its guest says hello over the link as an agent does and then listens.
SIGUSR1 is a guest that powers off, SIGUSR2 one that panics. Run as a program:
`fake_qemu.py [--die AT] [--hang AT] ... -- QEMU'S OWN ARGUMENTS`, where AT is `start`, `greet` or
a command, for example `cont`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

WITH_VALUE = (
    *("-name", "-M", "-accel", "-cpu", "-m", "-smp", "-kernel", "-initrd", "-append", "-global"),
    *("-chardev", "-serial", "-mon", "-device", "-add-fd", "-blockdev", "-sandbox"),
    *("-object", "-incoming"),
)
ALONE = ("-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-S")
COMMANDS = (
    *("qmp_capabilities", "cont", "stop", "add-fd", "blockdev-add", "blockdev-reopen"),
    *("system_reset", "migrate-set-capabilities", "getfd", "migrate", "migrate-incoming"),
)
DIED = 7
"""The status the fake ends with when told to die."""
STATE = b"the state of a stand-in"
"""What is saved of a machine."""


class FakeQemu:
    """One process: its control socket, its link, and what its guest does."""

    def __init__(self, faults: argparse.Namespace, arguments: list[tuple[str, str]]) -> None:
        """Take what it is to do wrong, and QEMU's own options with their values."""
        self._faults = faults
        self._arguments = arguments
        self._copy = ("-incoming", "defer") in arguments
        self._taken_up = False
        self._port_open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until a signal, a command or a fault ends the process."""
        if not self._copy:
            self._check_kernel()
        await self._at("start")
        port = await asyncio.start_unix_server(self._link, sock=self._listener("link"))
        loop = asyncio.get_running_loop()
        async with port:
            with self._listener("control") as control:
                control.setblocking(False)
                while True:
                    client, _ = await loop.sock_accept(control)
                    with client:
                        await self._control(client)

    def value(self, option: str, pattern: str) -> str:
        """Return what a value of an option says at the group of a pattern."""
        for name, value in self._arguments:
            found = re.search(pattern, value) if name == option else None
            if found:
                return found[1]
        return refuse(f"{option} without {pattern}")

    def _listener(self, chardev: str) -> socket.socket:
        return socket.socket(fileno=int(self.value("-chardev", rf"id={chardev},fd=(\d+)")))

    def _check_kernel(self) -> None:
        kernel = Path(self.value("-kernel", "(.*)"))
        if kernel.read_bytes()[:4] != b"\x7fELF":
            refuse(f"could not load kernel '{kernel}'")

    async def _at(self, place: str) -> None:
        if self._faults.hang_of and ("-m", self._faults.hang_of) not in self._arguments:
            return
        once = self._faults.once
        if once is not None:
            if os.path.exists(once):
                return
            if place in (self._faults.hang, self._faults.die):
                Path(once).touch()
        if place == self._faults.die:
            sys.stderr.write(f"told to die at {place}\n")
            sys.stderr.flush()
            os._exit(DIED)
        if place == self._faults.hang:
            while not (self._faults.resume and Path(once).read_text()):
                await asyncio.sleep(0.01)

    async def _control(self, client: socket.socket) -> None:
        await self._at("greet")
        if self._faults.garble == "greet":
            client.send(b"220 mail.example ESMTP\r\n")
        say(client, {"QMP": {"version": {}, "capabilities": ["oob"]}})
        negotiated = False
        async for line, files in lines(client):
            command = json.loads(line)["execute"]
            await self._at(command)
            if self._faults.garble == command:
                client.send(b"garbage\n")
            elif self._faults.fail == command:
                say(client, {"error": {"class": "GenericError", "desc": f"told to fail {command}"}})
            elif command not in COMMANDS or negotiated == (command == "qmp_capabilities"):
                desc = f"The command {command} has not been found"
                say(client, {"error": {"class": "CommandNotFound", "desc": desc}})
            else:
                negotiated = True
                say(client, {"return": {}})
                self._do(command, client, files)

    def _do(self, command: str, control: socket.socket, files: list[int]) -> None:
        if command == "system_reset":
            os._exit(0)
        if command == "cont":
            say(control, {"event": "RESUME", "timestamp": {}})
            if self._copy and not self._taken_up:
                refuse("there is no state to go on from")
            task = asyncio.get_running_loop().create_task(self._boot(control))
            self._tasks.add(task)
        if command == "migrate":
            well = os.write(files[-1], STATE) == len(STATE)
            os.close(files.pop())
        elif command == "migrate-incoming":
            well = self._taken_up = self._copy and os.read(files[-1], 1000) == STATE
        else:
            return
        well = well and self._faults.spoil != command
        for status in ("active", "completed" if well else "failed"):
            say(control, {"event": "MIGRATION", "data": {"status": status}, "timestamp": {}})

    async def _boot(self, control: socket.socket) -> None:
        hangs = self._faults.kvm_hangs and "kvm" in dict(self._arguments)["-accel"]
        guest = "silent" if hangs else self._faults.guest
        if guest in ("panic", "poweroff"):
            END[guest]()
        if guest == "silent":
            return
        if not self._copy:
            data = {"open": True, "id": "link"}
            say(control, {"event": "VSERPORT_CHANGE", "data": data, "timestamp": {}})
        self._port_open.set()
        if guest == "dies":
            sys.exit("told to die before the hello")

    async def _link(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._port_open.wait()
        if self._faults.guest != "mute":
            writer.write(bytes.fromhex(self._faults.hello))
        while await reader.read(4096):
            pass
        writer.close()


async def lines(client: socket.socket) -> AsyncIterator[tuple[bytes, list[int]]]:
    """Yield what a client says, line by line, with the files it has handed over until then."""
    client.setblocking(False)
    loop, buffer, files = asyncio.get_running_loop(), b"", list[int]()
    while True:
        readable = loop.create_future()
        loop.add_reader(client, readable.set_result, None)
        try:
            await readable
        finally:
            loop.remove_reader(client)
        try:
            data, handed, _, _ = socket.recv_fds(client, 4096, 4)
        except ConnectionResetError:  # it left before it had read what was said to it
            return
        files += handed
        if not data:
            return
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            yield line, files


def say(client: socket.socket, message: dict[str, Any]) -> None:
    """Send a line of the control protocol; to nobody when the client has left."""
    with contextlib.suppress(OSError):
        client.send(json.dumps(message).encode() + b"\r\n")


def refuse(why: str) -> str:
    """End as QEMU does that does not like its command line."""
    sys.exit(f"qemu-system-x86_64: {why}")


def power_off() -> None:
    """Be a guest that powers off."""
    os._exit(0)


def panic() -> None:
    """Be a guest whose kernel panics, which resets it."""
    with contextlib.suppress(OSError):  # a console that takes no more stops no machine
        os.write(1, b"[    9.1] Kernel panic - not syncing: told to\n[    9.1] CR2: 0\n")
    os._exit(0)


END = {"poweroff": power_off, "panic": panic}


def parse(argv: list[str]) -> list[tuple[str, str]]:
    """Read QEMU's own arguments; ends the process at one that QEMU would not know."""
    options, words = [], iter(argv)
    for word in words:
        if word in WITH_VALUE:
            options.append((word, next(words)))
        elif word not in ALONE:
            refuse(f"{word}: invalid option")
    return options


async def main() -> None:
    """Be QEMU."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--hello", help="what the guest says, in hexadecimal digits")
    parser.add_argument("--die", help="where to end, with status 7")
    parser.add_argument("--hang", help="where to stop doing anything")
    parser.add_argument("--fail", help="the command to refuse")
    parser.add_argument("--spoil", help="the migration to fail at after it has begun")
    parser.add_argument("--garble", help="where to talk no QMP")
    parser.add_argument("--once", help="a file: the fault happens while it is not there")
    parser.add_argument("--resume", action="store_true", help="until there is something in it")
    parser.add_argument("--hang-of", help="the value of -m that the faults are for, without a unit")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--kvm-hangs", action="store_true", help="a guest under KVM does nothing")
    parser.add_argument(
        "--guest",
        default="well",
        choices=["well", "silent", "mute", "panic", "poweroff", "dies"],
        help="what becomes of the boot",
    )
    split = sys.argv.index("--")
    faults = parser.parse_args(sys.argv[1:split])
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, power_off)
    loop.add_signal_handler(signal.SIGUSR2, panic)
    if faults.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, power_off)
    await FakeQemu(faults, parse(sys.argv[split + 1 :])).serve()


if __name__ == "__main__":
    asyncio.run(main())
