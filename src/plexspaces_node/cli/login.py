"""The commands `login`, `logout` and `whoami`: who this user is for a node."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.cli.options import ADDRESS_VARIABLE, Json, NodeAddress, address_of
from plexspaces_node.cli.output import moment, note, print_fields, print_json, say
from plexspaces_node.client import ClientTls, NodeClient
from plexspaces_node.client.address import parts_of
from plexspaces_node.client.credentials import Credentials, credentials_file, forget, keep
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import WhoAmI
from plexspaces_node.token_text import FILE_VARIABLE, VARIABLE, check_secret

app = typer.Typer()

_LONGEST = 4096


@app.command(epilog="Example:  plexspaces login --node-address https://node.example:9000")
def login(
    node_address: NodeAddress = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Certificate of the CA that has signed the node's.",
            show_default="the CAs that this host trusts",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="Certificate of this client."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Its private key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep a token for a node, for the commands and the Python client of this user.

    The token is asked for, or read from stdin; it is never an argument, which every user of this
    host could read. With a client certificate it may be empty. The node is asked who it is, and
    only then it is kept: in $XDG_CONFIG_HOME/plexspaces/credentials.toml, for its owner alone.
    """
    address = address_of(node_address)
    named, is_https = parts_of(address)
    tls = None
    if is_https or ca or certificate or key:
        tls = ClientTls(*(each and each.absolute() for each in (ca, certificate, key)))
    token = _token_of_user(named)
    if not token and certificate is None:
        raise InvalidArgument(
            "no token was given",
            hint="paste it when it is asked for, or: plexspaces login < FILE",
        )
    if token:
        check_secret(token, source="stdin")
    who = asyncio.run(_ask(address, tls, token))
    if who.kind == "anonymous":
        raise InvalidArgument(
            f"the node at {named} has no tokens yet: everybody who reaches it may do everything",
            hint="plexspaces token create --name NAME --scope SCOPE",
        )
    path = keep(address, Credentials(token, tls))
    if as_json:
        print_json(asdict(who))
    else:
        say(f"✓ Logged in at {named}")
        _print(who)
        note(f"kept in {path}; plexspaces logout removes it")
        if node_address and node_address != os.environ.get(ADDRESS_VARIABLE):
            note(f"other commands need its address too: export {ADDRESS_VARIABLE}={node_address}")


@app.command(epilog="Example:  plexspaces logout --node-address https://node.example:9000")
def logout(node_address: NodeAddress = None) -> None:
    """Remove what `login` has kept for a node; the token stays valid."""
    address = address_of(node_address)
    if not forget(address):
        say(f"nothing is kept for {parts_of(address)[0]} in {credentials_file()}")
        return
    say(f"✓ Logged out at {parts_of(address)[0]}")


@app.command(epilog="Example:  plexspaces whoami")
def whoami(node_address: NodeAddress = None, as_json: Json = False) -> None:
    """Ask a node who you are and what you may do."""
    who = asyncio.run(_ask(address_of(node_address), None, None))
    if as_json:
        print_json(asdict(who))
    else:
        say(who.name if who.name == who.kind else f"{who.name} ({who.kind})")
        _print(who)


async def _ask(address: str, tls: ClientTls | None, token: str | None) -> WhoAmI:
    async with NodeClient(address, tls=tls, token=token) as client:
        return await client.whoami()


def _token_of_user(address: str) -> str:
    if sys.stdin is None:
        raise InvalidArgument(
            "there is no stdin to read the token from",
            hint=f"set {VARIABLE} or {FILE_VARIABLE} instead of logging in",
        )
    if sys.stdin.isatty():
        return getpass.getpass(f"Token for {address}: ").strip()
    return sys.stdin.read(_LONGEST).strip()


def _print(who: WhoAmI) -> None:
    fields = [
        ("Scopes", ", ".join(who.scopes) or "none"),
        ("Tenant", who.tenant),
        ("Applications", who.applications or "none"),
    ]
    if who.expires_unix_ns:
        fields.append(("Expires", moment(who.expires_unix_ns)[:16].replace("T", " ")))
    print_fields(fields)
