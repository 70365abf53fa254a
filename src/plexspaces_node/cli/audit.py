"""The command `audit`: who did what on a node."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from plexspaces_node.cli.options import NodeAddress, address_of, tenant_option
from plexspaces_node.cli.output import counted, milliseconds, print_json_line, printable, say
from plexspaces_node.client import NodeClient
from plexspaces_node.info import AuditEntry

app = typer.Typer()


@app.command(epilog="Example:  plexspaces audit --tail 20 -f")
def audit(
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Stream new lines until Ctrl-C.")
    ] = False,
    tail: Annotated[
        int, typer.Option(min=0, help="Start with at most this many past lines; 0 means all.")
    ] = 0,
    tenant: Annotated[
        str,
        tenant_option("Only the lines of this tenant."),
    ] = "",
    node_address: NodeAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Print a node's audit log: who changed what, and who was refused."""

    async def read() -> None:
        async with (
            NodeClient(address_of(node_address)) as client,
            aclosing(client.read_audit(tenant=tenant, follow=follow, tail=tail)) as entries,
        ):
            async for entry in entries:
                if as_json:
                    print_json_line(entry)
                else:
                    say(printable(_in_words(entry)))

    asyncio.run(read())


def _in_words(entry: AuditEntry) -> str:
    who = f"{entry.kind}:{entry.who}" if entry.who not in ("", entry.kind) else entry.kind or "–"
    parts = [
        entry.time,
        f"{entry.result:<17}",
        f"{who}@{entry.address}" if entry.address else who,
        entry.verb,
        entry.object or "–",
    ]
    if entry.tenant:
        parts.append(f"in {entry.tenant}")
    if entry.duration_ns:
        parts.append(milliseconds(entry.duration_ns))
    if entry.count > 1:
        parts.append(f"{entry.count} times")
    if entry.lost:
        parts.append(f"({counted(entry.lost, 'line')} before it lost)")
    return "  ".join(parts)
