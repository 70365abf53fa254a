"""The commands on one application: stop, start, undeploy, and a message to it."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from contextlib import suppress
from typing import Annotated

import typer

from plexspaces_node.cli.message import message_of
from plexspaces_node.cli.options import (
    GivenName,
    Json,
    Name,
    NameOption,
    NodeAddress,
    address_of,
    name_of,
)
from plexspaces_node.cli.output import milliseconds, note, print_error, print_json, say
from plexspaces_node.cli.status import FAILED
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    NotFound,
)
from plexspaces_node.info import ApplicationInfo, InvokeResult
from plexspaces_node.model import VmState

app = typer.Typer()

_UNKNOWN_MESSAGE = "unknown-message"
"""The code with which every SDK answers a message type that has no handler."""


@app.command(epilog="Example:  plexspaces undeploy calculator")
def undeploy(
    given: GivenName = None,
    option: NameOption = None,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Remove an application with its VM, state and log."""
    name = name_of(given, option)

    async def act() -> None:
        async with NodeClient(address_of(node_address)) as client:
            await client.undeploy(name)

    asyncio.run(act())
    if as_json:
        print_json({"name": name, "undeployed": True})
    else:
        say(f"✓ Undeployed {name}")


@app.command(epilog="Example:  plexspaces stop calculator")
def stop(
    given: GivenName = None,
    option: NameOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Stop even if the state cannot be saved; unsaved changes are lost.",
        ),
    ] = False,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Stop an application and keep its last snapshot, or remove an empty VM.

    If the state cannot be saved, the application keeps running and the error says why.
    """
    name = name_of(given, option)

    async def act() -> ApplicationInfo | None:
        async with NodeClient(address_of(node_address)) as client:
            try:
                return await client.stop(name, force=force)
            except NotFound:
                if name not in {vm.id for vm in (await client.list()).empty_vms}:
                    raise
                await client.stop_vm(name)
                return None

    application = asyncio.run(act())
    if application is None:
        if as_json:
            print_json({"vm_id": name, "state": VmState.GONE})
        else:
            say(f"✓ Removed empty VM {name}")
        return
    if as_json:
        print_json(application)
    else:
        say(f"✓ {name} is {application.state}")
    if application.last_error and force:
        note(application.last_error)
    elif application.last_error:
        print_error(application.last_error, f"plexspaces logs {name}")
        raise typer.Exit(FAILED)


@app.command(epilog="Example:  plexspaces start calculator")
def start(
    given: GivenName = None,
    option: NameOption = None,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Start a stopped or failed application from its last snapshot."""
    name = name_of(given, option)

    async def act() -> ApplicationInfo:
        async with NodeClient(address_of(node_address)) as client:
            return await client.start(name)

    application = asyncio.run(act())
    if as_json:
        print_json(application)
        return
    vm = f" in {application.vm.id}" if application.vm else ""
    say(f"✓ {name} is {application.state}{vm}")


@app.command(epilog='Example:  plexspaces invoke calculator --type add --data \'{"a":1,"b":2}\'')
def invoke(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: Name,
    stdin: Annotated[
        str | None, typer.Argument(metavar="-", help="Read the message from stdin.")
    ] = None,
    message_type: Annotated[str, typer.Option("--type", help="Message type.")] = "",
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

    async def act() -> InvokeResult:
        async with NodeClient(address_of(node_address)) as client:
            return await client.invoke(name, payload, type=message_type, timeout_s=timeout)

    try:
        result = asyncio.run(act())
    except ActorError as error:
        if error.code == _UNKNOWN_MESSAGE and not message_type and isinstance(error, ActorFailed):
            error.hint = (
                error.hint or f"name the message type: plexspaces invoke {name} --type TYPE"
            )
        if as_json:
            print_json({**_as_text(error.output), "failure": _as_dict(error), "timings": None})
        elif error.output:
            _write_reply(error.output)
        raise
    except KeyboardInterrupt:
        _note_interrupted(timeout)
        raise
    if as_json:
        print_json({**_as_text(result.payload), "failure": None, "timings": result.timings})
    else:
        _write_reply(result.payload)
    if stats:
        _print_stats(result)


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
