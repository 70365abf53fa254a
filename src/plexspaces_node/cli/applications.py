"""The commands on one application: stop, start, undeploy, and a message to it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from plexspaces_node.cli.options import (
    GivenName,
    Json,
    NameOption,
    NodeAddress,
    address_of,
    name_of,
)
from plexspaces_node.cli.output import note, print_error, print_json, say
from plexspaces_node.cli.status import FAILED
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import (
    NotFound,
)
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import VmState

app = typer.Typer()


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
