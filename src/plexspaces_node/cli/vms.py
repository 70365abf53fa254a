"""The commands about VMs: `vms list`, `vms inspect` and `vms console`."""

from __future__ import annotations

import asyncio
import codecs
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated

import typer

from plexspaces_node.cli.options import Json, NodeAddress, address_of, in_tenant
from plexspaces_node.cli.output import (
    columns,
    milliseconds,
    moment,
    note,
    print_fields,
    print_json,
    print_times,
    printable,
    say,
    size,
)
from plexspaces_node.client import NodeClient
from plexspaces_node.info import VmInfo, VmInspection

UNKNOWN = "–"

app = typer.Typer()
vms_app = typer.Typer()
app.add_typer(vms_app, name="vms")

VmName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Application name or VM ID.", callback=in_tenant),
]


@vms_app.callback(epilog="Example:  plexspaces vms list")
def _vms() -> None:
    """Inspect a node's VMs: state, resource use and console."""


@vms_app.command("list", epilog="Example:  plexspaces vms list --json")
def list_vms(node_address: NodeAddress = None, as_json: Json = False) -> None:
    """List every VM of a node: with an application, empty or still starting.

    RSS is the host memory that the VM's process uses; – means unknown.
    """

    async def fetch() -> tuple[VmInfo, ...]:
        async with NodeClient(address_of(node_address)) as client:
            return await client.list_vms()

    vms = asyncio.run(fetch())
    if as_json:
        print_json(vms)
        return
    if not vms:
        say("No VMs are running on this node.")
        note("hint: plexspaces deploy FILE --name NAME")
        return
    for line in table(vms):
        say(line)


def table(vms: Sequence[VmInfo]) -> Iterator[str]:
    """Yield a heading and a line for each VM, in columns."""
    rows = [("VM", "APPLICATION", "STATE", "ISOLATION", "VCPUS", "MEMORY", "RSS", "CPU", "UPTIME")]
    for vm in vms:
        rows.append(
            (
                vm.id,
                vm.application or UNKNOWN,
                vm.state,
                vm.isolated_by_in_short,
                str(vm.config.vcpus),
                f"{vm.config.memory_mib} MiB",
                size(vm.rss_bytes) if vm.rss_bytes else UNKNOWN,
                milliseconds(vm.cpu_ns) if vm.cpu_ns else UNKNOWN,
                _uptime(vm),
            )
        )
    yield from columns(rows)


@vms_app.command("inspect", epilog="Example:  plexspaces vms inspect calculator")
def inspect_vm(name: VmName, node_address: NodeAddress = None, as_json: Json = False) -> None:
    """Show a VM: state, resource use, memory inside and the steps of its start.

    The agent reports the memory inside: that of the whole guest or, at process
    isolation, where there is no guest, that of the agent's process.
    """

    async def fetch() -> VmInspection:
        async with NodeClient(address_of(node_address)) as client:
            return await client.inspect_vm(name)

    inspection = asyncio.run(fetch())
    if as_json:
        print_json(inspection)
        return
    vm = inspection.vm
    say(vm.id)
    print_fields(
        [
            ("Application", vm.application or "none"),
            ("State", vm.state),
            ("Isolation", vm.isolated_by),
            ("Size", f"{vm.config.vcpus} vCPU, {vm.config.memory_mib} MiB"),
            ("Started", moment(vm.started_unix_ns) if vm.started_unix_ns else UNKNOWN),
            ("Uptime", _uptime(vm)),
            ("PID", str(inspection.pid or UNKNOWN)),
            ("RSS", f"{size(vm.rss_bytes)} on the host" if vm.rss_bytes else UNKNOWN),
            ("CPU time", milliseconds(vm.cpu_ns) if vm.cpu_ns else UNKNOWN),
            memory_inside(inspection),
            ("Socket", vm.socket),
            ("Console", inspection.console),
        ]
    )
    if inspection.steps:
        say()
        steps = [(step.name, milliseconds(step.duration_ns)) for step in inspection.steps]
        print_times([("Step", "Time"), *steps])


def memory_inside(inspection: VmInspection) -> tuple[str, str]:
    """Return what is known about the memory inside a VM: whose it is, and the numbers."""
    memory = inspection.memory
    if memory is None:
        return "Memory inside", f"unknown: {inspection.memory_unknown}"
    used, total, available = (
        size(value) for value in (memory.used_bytes, memory.total_bytes, memory.available_bytes)
    )
    if memory.guest:
        return "Guest memory", f"{used} of {total} in use, {available} available"
    bound = f"at most {total}" if memory.total_bytes else "without a limit"
    return "Agent memory", f"{used} allocated by its process, {bound}; there is no guest"


@vms_app.command("console", epilog="Example:  plexspaces vms console calculator --tail 20")
def console(
    name: VmName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Stream new output until the VM is gone.")
    ] = False,
    tail: Annotated[
        int, typer.Option(min=0, help="Start with at most this many past lines; 0 means all.")
    ] = 0,
    node_address: NodeAddress = None,
) -> None:
    """Print a VM's console output, such as a guest's boot log or a kernel panic.

    At process isolation there is no guest: the output is that of the agent's process.
    For the application's own logs use `plexspaces logs`.
    Control characters are escaped on a terminal; a pipe gets the raw bytes.
    """

    async def read() -> bool:
        write = _to_terminal() if sys.stdout.isatty() else _as_it_is
        any_came = False
        async with (
            NodeClient(address_of(node_address)) as client,
            aclosing(client.vm_console(name, follow=follow, tail=tail)) as chunks,
        ):
            async for chunk in chunks:
                write(chunk)
                any_came = True
        return any_came

    if not asyncio.run(read()):
        note(f"the console of {name} is empty")
    elif follow:
        note(f"the VM of {name} is gone")


def _as_it_is(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _to_terminal() -> Callable[[bytes], None]:
    visible = Visible()

    def write(chunk: bytes) -> None:
        sys.stdout.write(visible(chunk))
        sys.stdout.flush()

    return write


class Visible:
    """Turns a byte stream into text that cannot control a terminal; only lines stay."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    def __call__(self, chunk: bytes) -> str:
        text = self._held + self._decoder.decode(chunk)
        # Serial lines end in both characters, and they may arrive in two chunks.
        self._held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix(self._held).replace("\r\n", "\n").split("\n")
        return "\n".join(map(printable, lines))


def _uptime(vm: VmInfo) -> str:
    return duration(vm.uptime_ns) if vm.uptime_ns else UNKNOWN


def duration(length_ns: int) -> str:
    """Format a duration in its two largest units."""
    seconds = length_ns // 1_000_000_000
    for unit, lower, length_s, lower_s in (
        ("d", "h", 86_400, 3_600),
        ("h", "min", 3_600, 60),
        ("min", "s", 60, 1),
    ):
        if seconds >= length_s:
            return f"{seconds // length_s} {unit} {seconds % length_s // lower_s} {lower}"
    return f"{seconds} s"
