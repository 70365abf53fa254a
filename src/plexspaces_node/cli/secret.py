"""The commands about secrets: `secret set`, `secret list` and `secret delete`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from plexspaces_node.cli.options import Json, NodeAddress, address_of, tenant_option
from plexspaces_node.cli.output import columns, moment, note, print_json, printable, say
from plexspaces_node.cli.status import FAILED
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.info import SecretInfo, SetSecret

app = typer.Typer()
secret_app = typer.Typer()
app.add_typer(secret_app, name="secret")

_READ_BYTES = 128 * 1024
"""More than a value can have, so that the node says what is too long."""


class _WithoutValue(TyperCommand):
    """`secret set`, whose usage does not show the argument that it takes only to refuse it."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece for piece in super().collect_usage_pieces(ctx) if "value" not in piece]


SecretName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the secret.", show_default=False)
]
Tenant = Annotated[
    str,
    tenant_option("Tenant of the secret.", show_default="your own"),
]


@secret_app.callback(epilog="Example:  plexspaces secret list")
def _secret() -> None:
    """Keep secrets on a node and give them to applications."""


@secret_app.command(
    "set",
    cls=_WithoutValue,
    epilog="Example:  plexspaces secret set db-password < FILE",
)
def set_secret(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: SecretName,
    value: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="File with the value.")
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Restart the applications that use it; messages wait."),
    ] = False,
    tenant: Tenant = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Set a secret, or its next version, from stdin or a prompt.

    One line break at the end of the value is removed. Applications that use the
    secret get a changed value when they start next, or now with --restart.
    """
    if value:
        # Not repeated: it is what must not be seen.
        raise InvalidArgument(
            "the value of a secret is not an argument: others can see those with ps",
            hint=f"from stdin or a prompt: plexspaces secret set {name}",
        )
    secret = _value(name, file)

    async def call() -> SetSecret:
        async with NodeClient(address_of(node_address)) as client:
            return await client.set_secret(name, secret, tenant=tenant, restart=restart)

    done = asyncio.run(call())
    if as_json:
        print_json(done)
    else:
        say(f"✓ Secret {name} set, version {done.version}")
        for application, fault in done.restarted.items():
            say(f"  {application}: {f'not running: {printable(fault)}' if fault else 'restarted'}")
        if restart and not done.restarted:
            note("no running application uses it")
    if any(done.restarted.values()):
        raise typer.Exit(FAILED)


@secret_app.command("list", epilog="Example:  plexspaces secret list --json")
def list_secrets(
    tenant: Tenant = "", node_address: NodeAddress = None, as_json: Json = False
) -> None:
    """List secrets and the applications that use them; never their values."""

    async def call() -> tuple[SecretInfo, ...]:
        async with NodeClient(address_of(node_address)) as client:
            return await client.list_secrets(tenant=tenant)

    secrets = asyncio.run(call())
    if as_json:
        print_json(secrets)
        return
    if not secrets:
        say("There are no secrets.")
        note("hint: plexspaces secret set NAME")
        return
    for line in _table(secrets):
        say(line)


@secret_app.command("delete", epilog="Example:  plexspaces secret delete db-password")
def delete_secret(
    name: SecretName,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Delete it although applications use it: they do not start again."
        ),
    ] = False,
    tenant: Tenant = "",
    node_address: NodeAddress = None,
) -> None:
    """Delete a secret. Refused while an application uses it."""

    async def call() -> tuple[str, ...]:
        async with NodeClient(address_of(node_address)) as client:
            return await client.delete_secret(name, tenant=tenant, force=force)

    used_by = asyncio.run(call())
    say(f"✓ Secret {name} deleted")
    if used_by:
        note(f"these applications do not start again without it: {', '.join(used_by)}")


def _table(secrets: Sequence[SecretInfo]) -> Iterable[str]:
    rows = [("NAME", "TENANT", "VERSION", "CHANGED", "USED BY")]
    for one in secrets:
        changed, users = moment(one.changed_unix_ns), ", ".join(one.used_by) or "–"
        rows.append((one.name, one.tenant, str(one.version), changed, users))
    yield from columns(rows)


def _value(name: str, file: Path | None) -> bytes:
    """Read the value; raises `InvalidArgument` without repeating it."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                value = opened.read(_READ_BYTES)
        except OSError as error:
            raise InvalidArgument(
                f"{file} cannot be read: {error.strerror}", hint=f"ls -l {quoted(file)}"
            ) from error
    elif sys.stdin.isatty():
        value = getpass(f"Value of {name} (not shown): ").encode("utf-8", "surrogateescape")
    else:
        value = sys.stdin.buffer.read(_READ_BYTES)
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise InvalidArgument(
            "the value is empty", hint=f"printf %s VALUE | plexspaces secret set {name}"
        )
    return value
