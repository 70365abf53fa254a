"""The commands about tokens: `token create`, `token list`, `token revoke` and `token rotate`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Protocol, TypeVar

import typer

import plexspaces_node
from plexspaces_node.cli.options import (
    Json,
    NodeAddress,
    address_of,
    names_directory_alone,
    tenant_option,
)
from plexspaces_node.cli.output import columns, moment, note, print_json, say
from plexspaces_node.client import NodeClient
from plexspaces_node.config import Config
from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.http_notice import GRPC_SOCKET, UNIX, is_answering
from plexspaces_node.info import NewSecret, TokenInfo

app = typer.Typer()
token_app = typer.Typer()
app.add_typer(token_app, name="token")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")

_T = TypeVar("_T")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token.")]
Tenant = Annotated[
    str,
    tenant_option("Tenant.", show_default="any"),
]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="90d", help="Lifetime: a number and s, m, h, d or w."),
]


class _Tokens(Protocol):
    """The tokens of a node, by its API or, while it does not run, in its data directory."""

    async def create_token(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        tenant: str = "",
        applications: str = "*",
        lifetime_s: int = 0,
    ) -> NewSecret: ...

    async def list_tokens(self, *, tenant: str = "") -> tuple[TokenInfo, ...]: ...

    async def revoke_token(self, name: str, *, tenant: str = "") -> None: ...

    async def rotate_token(
        self, name: str, *, tenant: str = "", grace_s: int = 0, lifetime_s: int = 0
    ) -> NewSecret: ...


@token_app.callback(epilog="Example:  plexspaces token create --name ci --scope deploy")
def _token() -> None:
    """Create, list, revoke and rotate the tokens by which others use a node."""


@token_app.command(
    epilog="Example:  plexspaces token create --name ci --scope deploy --tenant shop --expires 90d"
)
def create(  # noqa: PLR0913 - the flags of the command
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the token.")],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="admin|deploy|invoke|read",
            help="What it allows; may be repeated. deploy includes read, admin everything.",
        ),
    ],
    tenant: Annotated[
        str,
        tenant_option(
            "Whose applications it is for; * for all.",
            show_default="default, with the scope admin *",
        ),
    ] = "",
    application: Annotated[
        str,
        typer.Option("--application", metavar="PATTERN", help="Which ones, such as 'cart-*'."),
    ] = "*",
    expires: Expires = None,
    node_address: NodeAddress = None,
    node_id: Annotated[
        str | None,
        typer.Option(
            "--node-id",
            metavar="ID",
            help="A node of this host and user, by its ID instead of its address.",
            show_default="node.id in the configuration",
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Its data directory.",
            show_default="~/.local/share/plexspaces/ID",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a token and print its secret, which is shown this once.

    From the first token on everybody needs one, except the user of the node and root on its host.
    If the node does not run, the token is written into its data directory.
    """
    lifetime_s = _lifetime_of(expires)

    async def act(tokens: _Tokens) -> NewSecret:
        return await tokens.create_token(
            name, scopes=scope, tenant=tenant, applications=application, lifetime_s=lifetime_s
        )

    if node_id is None and data_dir is None:
        made = _run(node_address, act)
    else:
        made = asyncio.run(_run_here(node_id, data_dir, act))
    _print_secret(made, "Created", as_json=as_json)


@token_app.command("list", epilog="Example:  plexspaces token list --json")
def list_tokens(
    tenant: Tenant = "", node_address: NodeAddress = None, as_json: Json = False
) -> None:
    """List the tokens of a tenant, or of all; never their secrets."""
    found = _run(node_address, lambda tokens: tokens.list_tokens(tenant=tenant))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [("NAME", "TENANT", "SCOPES", "APPLICATIONS", "ID", "EXPIRES", "LAST USED", "STATE")]
    rows += [
        (
            each.name,
            each.tenant,
            ",".join(each.scopes),
            each.applications,
            f"{each.id}…",
            _day(each.expires_unix_ns),
            _day(each.last_used_unix_ns),
            each.state,
        )
        for each in found
    ]
    for line in columns(rows):
        say(line)


@token_app.command(epilog="Example:  plexspaces token revoke ci")
def revoke(name: Name, tenant: Tenant = "", node_address: NodeAddress = None) -> None:
    """Revoke a token: it is not valid from now on, and what streams by it ends."""
    _run(node_address, lambda tokens: tokens.revoke_token(name, tenant=tenant))
    say(f"✓ Revoked {name}")


@token_app.command(epilog="Example:  plexspaces token rotate ci --grace 10m")
def rotate(  # noqa: PLR0913 - the flags of the command
    name: Name,
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="10m", help="How long the secret before still works."),
    ] = "0s",
    expires: Expires = None,
    tenant: Tenant = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Give a token a new secret and print it, which is shown this once."""
    grace_s, lifetime_s = seconds_of(grace), _lifetime_of(expires)

    async def act(tokens: _Tokens) -> NewSecret:
        return await tokens.rotate_token(
            name, tenant=tenant, grace_s=grace_s, lifetime_s=lifetime_s
        )

    _print_secret(_run(node_address, act), "Rotated", as_json=as_json)


def seconds_of(text: str | None) -> int:
    """Return a duration in seconds, 0 for none; raises `InvalidArgument`."""
    if text in (None, "0"):
        return 0
    match = _DURATION.fullmatch(text or "")
    if match is None:
        raise InvalidArgument(
            f"{text!r} is not a duration",
            hint=f"a number and one of {', '.join(_UNITS)}, for example 90d or 10m",
        )
    return int(match[1]) * _UNITS[match[2]]


def _lifetime_of(expires: str | None) -> int:
    """Return a token's lifetime in seconds, 0 if it never ends.

    None that is given is 0: who computes one must not get a token that is valid forever.
    """
    lifetime_s = seconds_of(expires)
    if expires is not None and not lifetime_s:
        raise InvalidArgument(
            f"a token cannot expire after {expires}",
            hint="at least 1s; omit --expires for one that never expires",
        )
    return lifetime_s


def _print_secret(made: NewSecret, what: str, *, as_json: bool) -> None:
    token = made.token
    if as_json:
        print_json({**asdict(token), "secret": made.secret})
        return
    say(made.secret)
    until = f", expires {_day(token.expires_unix_ns)}" if token.expires_unix_ns else ""
    note(
        f"✓ {what} {token.name}: {', '.join(token.scopes)} of tenant {token.tenant}, "
        f"applications {token.applications}{until}"
    )
    note("  The secret is not shown again. A client takes it from PLEXSPACES_TOKEN, or keeps it")
    note("  with: plexspaces login --node-address HOST:PORT")


def _day(unix_ns: int) -> str:
    return moment(unix_ns)[:16].replace("T", " ") if unix_ns else "never"


def _run(node_address: str | None, act: Callable[[_Tokens], Coroutine[Any, Any, _T]]) -> _T:
    async def run() -> _T:
        if node_address is None and names_directory_alone(plexspaces_node.ConfigBootstrap.load()):
            return await _run_here(None, None, act)
        async with NodeClient(address_of(node_address)) as client:
            try:
                return await act(client)
            except Unavailable:
                # It was looked for on another host, or by another's name.
                if node_address is not None:
                    raise
        return await _in_data_directory(plexspaces_node.ConfigBootstrap.load(), act)

    return asyncio.run(run())


async def _run_here(
    node_id: str | None, data_dir: str | None, act: Callable[[_Tokens], Coroutine[Any, Any, _T]]
) -> _T:
    """Act on a node of this host that the flags of `start-node` name, whether or not it runs."""
    flags = {"node.id": node_id, "node.data_dir": data_dir}
    config = plexspaces_node.ConfigBootstrap.load(None, flags)
    if is_answering(path := config.node.data_dir / GRPC_SOCKET):
        async with NodeClient(f"{UNIX}{path}") as client:
            return await act(client)
    return await _in_data_directory(config, act)


async def _in_data_directory(
    config: Config, act: Callable[[_Tokens], Coroutine[Any, Any, _T]]
) -> _T:
    async with _of_stopped(config) as tokens:
        note(f"the node does not run: using its data directory {config.node.data_dir}")
        return await act(tokens)


@asynccontextmanager
async def _of_stopped(config: Config) -> AsyncIterator[_Tokens]:
    """Open the tokens of a node that does not run; raises `WrongState` if it does."""
    # Loads the node, which takes long.
    from plexspaces_node.node.access.stopped import StoppedNode  # noqa: PLC0415

    async with StoppedNode.open(config.node.data_dir, config.node.id) as node:
        yield node
