"""The command `invoke`: a message to an application, and its reply.

Loads gRPC only if the message cannot go by HTTP: that takes longer than the message.
"""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from contextlib import suppress
from importlib import import_module
from random import getrandbits
from typing import TYPE_CHECKING, Annotated

import typer

from plexspaces_node.cli.message import message_of
from plexspaces_node.cli.options import Json, Name, NodeAddress, address_of
from plexspaces_node.cli.output import milliseconds, note, print_json
from plexspaces_node.client.http_messages import HttpMessages
from plexspaces_node.client.message import Message
from plexspaces_node.client.way import way_to
from plexspaces_node.errors import ActorError, ActorFailed, ActorTrapped
from plexspaces_node.info import InvokeResult
from plexspaces_node.trace_context import write

if TYPE_CHECKING:
    from plexspaces_node.client import NodeClient

app = typer.Typer()

_UNKNOWN_MESSAGE = "unknown-message"
"""The code with which every SDK answers a message type that has no handler."""


@app.command(epilog='Example:  plexspaces invoke calculator --type add --data \'{"a":1,"b":2}\'')
def invoke(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: Name,
    stdin: Annotated[
        str | None, typer.Argument(metavar="-", help="Read the message from stdin.")
    ] = None,
    message_type: Annotated[
        str,
        typer.Option("--type", help="Message type; of an HTTP component, the path to POST to."),
    ] = "",
    data: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Message; @FILE reads it from a file, - from stdin."),
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the message from a file.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Maximum time to wait for the reply.",
            show_default="the node's limits.message_timeout_s",
        ),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print timings to stderr.")] = False,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Send a message to an application and write the reply to stdout.

    When a command fails, its output is written before the error.

    Ctrl-C only stops waiting: an actor that has started a message finishes it or times out.
    """
    payload = message_of(stdin, data, file)
    # Its trace is named below, and is kept longer if somebody asked for it.
    own = write(getrandbits(128) or 1, getrandbits(64) or 1, is_sampled=True)
    traceparent = own if stats else ""
    message = Message(name, message_type, payload, timeout, traceparent)
    try:
        result = asyncio.run(_send(address_of(node_address), message))
    except ActorError as error:
        if error.code == _UNKNOWN_MESSAGE and not message_type and isinstance(error, ActorFailed):
            error.hint = (
                error.hint or f"name the message type: plexspaces invoke {name} --type TYPE"
            )
        if as_json:
            told = {"failure": _as_dict(error), "timings": None, "trace_id": error.trace_id or None}
            print_json({**_as_text(error.output), **told})
        elif error.output:
            _write_reply(error.output)
        if stats:
            _print_trace(name, error.trace_id)
        raise
    except KeyboardInterrupt:
        _note_interrupted(timeout)
        raise
    if as_json:
        output: dict[str, object] = {**_as_text(result.payload), "failure": None}
        times = result.timings._asdict()
        print_json(output | {"timings": times, "trace_id": result.trace_id or None})
    else:
        _write_reply(result.payload)
    if stats:
        _print_stats(result)
        _print_trace(name, result.trace_id)


async def _send(address: str, message: Message) -> InvokeResult:
    message.check()
    by_http = HttpMessages(way_to(address))
    try:
        if (result := await by_http.send(message)) is not None:
            return result
    finally:
        by_http.close()
    client: NodeClient = import_module("plexspaces_node.client").NodeClient(address, http=False)
    async with client:
        return await client.invoke(
            *(message.name, message.payload),
            type=message.type,
            timeout_s=message.timeout_s,
            traceparent=message.traceparent,
        )


def _note_interrupted(timeout: float | None) -> None:
    time = "the node's limits.message_timeout_s" if timeout is None else f"{timeout:g} s"
    going_on = "an actor that has started the message finishes it or times out"
    # The terminal itself may be gone.
    with suppress(OSError):
        note(f"interrupted: {going_on} ({time})")


def _write_reply(payload: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(payload)
    if sys.stdout.isatty() and not payload.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _as_text(output: bytes) -> dict[str, str | None]:
    """Return bytes in a form for JSON: as text if they are text, else in base64."""
    try:
        return {"output": output.decode(), "output_base64": None}
    except UnicodeDecodeError:
        return {"output": None, "output_base64": b64encode(output).decode()}


def _as_dict(error: ActorError) -> dict[str, object]:
    return {
        "kind": "trapped" if isinstance(error, ActorTrapped) else "failed",
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "hint": error.hint,
    }


def _print_trace(name: str, trace_id: str) -> None:
    """Say how to see where the time went, if that is known."""
    if trace_id:
        note(f"{'trace:':<12} plexspaces trace {name} --id {trace_id}")


def _print_stats(result: InvokeResult) -> None:
    timings = result.timings
    for name, duration_ns in (
        ("round trip", result.round_trip_ns),
        ("node", timings.total_ns),
        ("compute", timings.compute_ns),
        ("host waits", timings.wait_ns),
        ("queue", timings.queue_ns),
    ):
        note(f"{name + ':':<12} {milliseconds(duration_ns):>9}")
    note(f"{'transport:':<12} {result.transport:>9}")
