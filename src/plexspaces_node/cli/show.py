"""The commands that only read: list, inspect and logs."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import Annotated

import typer

from plexspaces_node.cli.options import Json, Name, NodeAddress, Tenant, address_of
from plexspaces_node.cli.output import (
    columns,
    counted,
    milliseconds,
    moment,
    note,
    print_fields,
    print_json,
    print_json_line,
    print_phases,
    printable,
    say,
    size,
)
from plexspaces_node.cli.place import asked_for, where
from plexspaces_node.client import NodeClient
from plexspaces_node.info import ApplicationInfo, Listing, LogLine, VmInfo
from plexspaces_node.model import ApplicationState, ArtifactKind

app = typer.Typer()


@app.command("list", epilog="Example:  plexspaces list --json")
def list_(tenant: Tenant = None, node_address: NodeAddress = None, as_json: Json = False) -> None:
    """List a node's applications and their VMs."""

    async def fetch() -> Listing:
        async with NodeClient(address_of(node_address)) as client:
            return await client.list(tenant=tenant or "")

    listing = asyncio.run(fetch())
    if as_json:
        print_json(listing)
        return
    lines = list(table(listing)) if sys.stdout.isatty() else []
    if not lines or max(map(len, lines)) > shutil.get_terminal_size().columns:
        lines = list(plain_listing(listing))
    say("Listing deployed actors...")
    for line in lines:
        say(line)
    say(f"Discovery time: {milliseconds(listing.discovery_ns)}")
    if listing.silent_nodes:
        silent = ", ".join(listing.silent_nodes)
        note(f"warning: no answer from {silent}: what runs there is told by the cluster's records")


def plain_listing(listing: Listing) -> Iterator[str]:
    """Yield the listing as lines: VMs with an application, applications without, empty VMs."""
    running = [one for one in listing.applications if one.vm is not None]
    resting = [one for one in listing.applications if one.vm is None]
    yield f"Found {len(running)} VM(s) with actors:"
    for application in running:
        vm = application.vm
        assert vm is not None
        state = "" if application.state is ApplicationState.RUNNING else f" ({application.state})"
        yield f"  - {vm.id}: {vm.state} ({vm.socket})"
        yield f"    Application: {application.name}{state}"
        yield f"    Language: {application.language}"
        yield f"    Isolation: {vm.isolated_by}"
        yield from (f"    {what}: {value}" for what, value in where(application))
    if resting:
        yield f"Found {len(resting)} application(s) without a VM:"
    for application in resting:
        yield f"  - {application.name}: {application.state}"
        yield from (f"    {what}: {value}" for what, value in where(application))
    if listing.empty_vms:
        yield f"Found {len(listing.empty_vms)} empty VM(s):"
    for vm in listing.empty_vms:
        yield f"  - {vm.id}: {vm.state} ({vm.socket})"


def table(listing: Listing) -> Iterator[str]:
    """Yield the listing as a table with one line per application or empty VM."""
    headings = ("APPLICATION", "STATE", "LANGUAGE", "VM", "ISOLATION", "MEMORY", "SOCKET")
    rows: list[tuple[str, ...]] = [headings if not listing.cluster else ("NODE", *headings)]
    for one in listing.applications:
        vm = one.vm
        place = _place(vm) if vm else ("–",) * 4
        row = (one.name, one.state, one.language, *place)
        rows.append((one.node or "–", *row) if listing.cluster else row)
    for vm in listing.empty_vms:
        empty = ("–", vm.state, "–", *_place(vm))
        rows.append(("–", *empty) if listing.cluster else empty)
    yield f"Found {sum(one.vm is not None for one in listing.applications)} VM(s) with actors:"
    yield from columns(rows)


def _place(vm: VmInfo) -> tuple[str, str, str, str]:
    return vm.id, vm.isolated_by_in_short, size(vm.rss_bytes), vm.socket


@app.command(epilog="Example:  plexspaces inspect calculator")
def inspect(name: Name, node_address: NodeAddress = None, as_json: Json = False) -> None:
    """Show an application's VM, deploy timings and counters."""

    async def fetch() -> ApplicationInfo:
        async with NodeClient(address_of(node_address)) as client:
            return await client.inspect(name)

    application = asyncio.run(fetch())
    if as_json:
        print_json(application)
    else:
        _print_application(application)


def _print_application(application: ApplicationInfo) -> None:
    config, counters, vm = application.vm_config, application.counters, application.vm
    say(application.name)
    fields = [
        ("State", application.state + (f": {e}" if (e := application.last_error) else "")),
        ("Version", application.version),
        ("Language", f"{application.language} ({application.kind})"),
        ("Application ID", application.id),
        ("Digest", application.digest),
        ("Deployed", moment(application.created_unix_ns)),
        ("Restarts", str(application.restarts)),
        ("Size", f"{config.vcpus} vCPU, {config.memory_mib} MiB"),
        *where(application),
        *asked_for(application),
    ]
    if application.kind is not ArtifactKind.ACTOR:
        unit = "request" if application.kind is ArtifactKind.HTTP_COMPONENT else "message"
        fields += [
            ("Arguments", shlex.join(application.args) or "none"),
            ("Concurrency", f"{counted(application.concurrency, unit)} at the same time"),
        ]
    fields.append(("Allowed hosts", ", ".join(application.allow_hosts) or "none"))
    if application.public:
        fields.append(("Public", "everybody may send messages and requests to it"))
    if vm is not None:
        fields += [
            ("VM", f"{vm.id}: {vm.state} ({vm.socket})"),
            ("Isolation", vm.isolated_by),
            ("VM started", moment(vm.started_unix_ns)),
            ("VM memory", size(vm.rss_bytes) + " on the host"),
            ("VM CPU time", milliseconds(vm.cpu_ns)),
        ]
        if vm.cpu_not_enforced:
            fields.append(("CPU share", f"not enforced: {vm.cpu_not_enforced}"))
    fields += [
        ("Messages", f"{counters.messages}, {counters.failures} failed"),
        ("In flight", str(counters.in_flight)),
        ("Compute", milliseconds(counters.compute_ns)),
        ("Coordinate", milliseconds(counters.coordinate_ns)),
    ]
    print_fields(fields)
    say()
    print_phases(application.timings)


@app.command(epilog="Example:  plexspaces logs calculator -f")
def logs(  # noqa: PLR0913 - a parameter a flag
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Stream new lines until Ctrl-C.")
    ] = False,
    tail: Annotated[
        int, typer.Option(min=0, help="Start with at most this many past lines; 0 means all.")
    ] = 0,
    trace: Annotated[
        str,
        typer.Option(metavar="ID", help="Only lines of this trace: 32 hexadecimal digits."),
    ] = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Print an application's logs and what it wrote to stdout and stderr."""

    async def read() -> None:
        async with (
            NodeClient(address_of(node_address)) as client,
            aclosing(client.logs(name, follow=follow, tail=tail, trace_id=trace)) as lines,
        ):
            async for line in lines:
                _print_log_line(line, as_json)

    asyncio.run(read())


def _print_log_line(line: LogLine, as_json: bool) -> None:
    if as_json:
        print_json_line(line)
        return
    head = f"{moment(line.time_unix_ns)} {line.level:<5} {line.stream:<6} "
    first, *rest = line.message.rstrip("\n").split("\n")
    say(head + printable(first))
    for more in rest:
        say(" " * len(head) + printable(more))
