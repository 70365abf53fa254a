"""The commands about quotas: `quota set` and `quota show`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from plexspaces_node.cli.options import Json, NodeAddress, address_of, tenant_option
from plexspaces_node.cli.output import columns, note, print_json, say
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import DEFAULT_TENANT, split_name
from plexspaces_node.quota import Key, QuotaUse, SubjectUse, key_of, parsed, shown

app = typer.Typer()
quota_app = typer.Typer()
app.add_typer(quota_app, name="quota")

Application = Annotated[
    str,
    typer.Option(
        "--application",
        metavar="NAME",
        help="One application of the tenant; also TENANT/NAME.",
        show_default=False,
    ),
]


@quota_app.callback(epilog="Example:  plexspaces quota show --tenant shop")
def _quota() -> None:
    """Set and show how much tenants and applications may use."""


@quota_app.command(
    "set", epilog="Example:  plexspaces quota set --tenant shop messages_per_s=100 memory_mib=2GiB"
)
def set_quota(
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE…", help="What to bound; KEY=none removes a quota."),
    ],
    tenant: Annotated[
        str,
        tenant_option("The tenant."),
    ] = DEFAULT_TENANT,
    application: Application = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Set quotas of a tenant, or of one application of it.

    The keys: applications, memory_mib, vcpus, artifact_bytes, keyvalue_bytes, keyvalue_keys,
    log_bytes, messages_per_s, in_flight, outgoing_calls, outgoing_bytes (per second), cpu_percent
    (of one CPU). Bytes can have a unit, such as 2GiB. A lower quota never stops what runs.
    """
    wanted = dict(map(_value, values))
    tenant, application = _subject(tenant, application)

    async def act() -> SubjectUse:
        async with NodeClient(address_of(node_address)) as client:
            values = {str(key): value for key, value in wanted.items()}
            return await client.set_quota(values, tenant=tenant, application=application)

    use = asyncio.run(act())
    if as_json:
        print_json(use)
        return
    _print(use, only=wanted)


@quota_app.command("show", epilog="Example:  plexspaces quota show --tenant shop --json")
def show(
    tenant: Annotated[
        str,
        tenant_option("The tenant.", show_default="every tenant you see"),
    ] = "",
    application: Application = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Show quotas, and how much of each is used now.

    What has neither a quota nor a use is left out, except in JSON.
    """
    tenant, application = _subject(tenant, application)

    async def fetch() -> tuple[SubjectUse, ...]:
        async with NodeClient(address_of(node_address)) as client:
            return await client.quotas(tenant=tenant, application=application)

    uses = asyncio.run(fetch())
    if as_json:
        print_json(uses)
        return
    for use in uses:
        _print(use)
    if not uses:
        say("No tenant has applications or quotas.")
        note("hint: plexspaces quota set --tenant TENANT messages_per_s=100")


def _subject(tenant: str, application: str) -> tuple[str, str]:
    """Return tenant and name of what the flags name, of which the application may be in full.

    Raises `InvalidArgument` if its tenant is not the one of --tenant.
    """
    if "/" not in application:
        return tenant, application
    of, name = split_name(application)
    if tenant not in ("", DEFAULT_TENANT, of):
        raise InvalidArgument(
            f"{application!r} is not an application of the tenant {tenant!r}",
            hint=f"plexspaces quota show --application {application}",
        )
    return of, name


def _value(text: str) -> tuple[Key, int]:
    word, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgument(f"{text!r} is not KEY=VALUE", hint=f"write {word}=100 or {word}=none")
    key = key_of(word)
    return key, parsed(key, value)


def _print(use: SubjectUse, only: dict[Key, int] | None = None) -> None:
    say(str(use.subject))
    rows = [one for one in use.quotas if (one.key in only if only else bool(one.limit or one.used))]
    for line in table(rows) if rows else ("  no quotas, and nothing in use",):
        say(line)
    for one in rows:
        if one.limit and not one.enforced:
            note(f"warning: {one.key} is not enforced: {one.note}")


def table(quotas: Sequence[QuotaUse]) -> Iterator[str]:
    """Yield a heading and a line for each quota, in columns."""
    rows = [("  QUOTA", "LIMIT", "USED", "")]
    for one in quotas:
        limit = shown(one.key, one.limit) if one.limit else "none"
        rows.append(
            (
                f"  {one.key}",
                limit,
                shown(one.key, one.used),
                "" if one.enforced else "not enforced",
            )
        )
    yield from columns(rows)
