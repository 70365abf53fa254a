"""The command `trace`: where the time of a message went, and of the messages that it caused."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from plexspaces_node.cli.bars import terminal
from plexspaces_node.cli.options import Json, Name, NodeAddress, address_of
from plexspaces_node.cli.output import note, print_json
from plexspaces_node.cli.waterfall import legend, print_trace
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import NotFound
from plexspaces_node.telemetry import Trace

app = typer.Typer()

_ALL = 0
"""As many as the node tells by itself."""


@app.command(epilog="Example:  plexspaces trace calculator --slowest")
def trace(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: Name,
    slowest: Annotated[
        bool, typer.Option("--slowest", help="The slowest of the last hour, not the last one.")
    ] = False,
    trace_id: Annotated[
        str,
        typer.Option("--id", metavar="TRACE", help="Trace of this id, in hex.", show_default="any"),
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="At most this many traces.", show_default="1"),
    ] = None,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Draw where the time of a message went, and of the messages that it caused.

    Below it is the bill of the whole chain: compute and coordination of each hop, and which one to
    blame.
    """
    count = limit or (_ALL if trace_id else 1)

    async def fetch() -> tuple[Trace, ...]:
        async with NodeClient(address_of(node_address)) as client:
            return await client.traces(name, slowest=slowest, trace_id=trace_id, limit=count)

    traces = asyncio.run(fetch())
    if trace_id and not traces:
        raise NotFound(f"{name} has no trace {trace_id}", hint=f"plexspaces trace {name}")
    if as_json:
        print_json(traces)
    elif traces:
        _print(traces)
    else:
        note(f"no message of {name} has been traced yet")
        note(f"send it one with: plexspaces invoke {name}, then: plexspaces trace {name}")


def _print(traces: tuple[Trace, ...]) -> None:
    console = terminal()
    for number, one in enumerate(traces):
        if number:
            console.print()
        print_trace(one, console)
    console.print()
    console.print(legend(console))
