"""The flags that several commands share, and how their texts are converted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import plexspaces_node
from plexspaces_node.config import TENANT_VARIABLE, Config
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.http_notice import GRPC_SOCKET, UNIX, find, is_answering
from plexspaces_node.model import LANGUAGES, LEVELS


def tenant_option(meaning: str, *, show_default: str | bool = True) -> Any:
    """Return the option that names a tenant, which `PLEXSPACES_TENANT` does too."""
    return typer.Option(
        "--tenant",
        metavar="TENANT",
        envvar=TENANT_VARIABLE,
        help=meaning,
        show_default=show_default,
    )


def in_tenant(name: str | None) -> str | None:
    """Return a name of an application with the tenant that `PLEXSPACES_TENANT` says.

    Unless it has one: a name that is TENANT/NAME stays what it is.
    """
    tenant = os.environ.get(TENANT_VARIABLE, "")
    return f"{tenant}/{name}" if tenant and name and "/" not in name else name


ADDRESS_VARIABLE = "PLEXSPACES_NODE_ADDRESS"

NodeAddress = Annotated[
    str | None,
    typer.Option(
        "--node-address",
        metavar="HOST:PORT",
        envvar=ADDRESS_VARIABLE,
        show_default="node.address in the configuration, else 127.0.0.1:9000",
        help="Address of the node.",
    ),
]
Tenant = Annotated[
    str | None,
    tenant_option(
        "Only the applications of this tenant.", show_default="all that the token allows"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Application name.", callback=in_tenant)]
GivenName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="Application name.", show_default=False, callback=in_tenant
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Alternative to NAME.", callback=in_tenant),
]
Operations = Annotated[
    int, typer.Option("--operations", min=1, max=1_000_000, help="Messages per application.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default="release.toml in ., ~/.config/plexspaces or /etc/plexspaces",
        help="Configuration file.",
    ),
]


def complete_isolation(incomplete: str) -> list[str]:
    """Return the isolation levels that complete a text in a shell."""
    return [level for level in ("auto", *LEVELS) if level.startswith(incomplete)]


def complete_level(incomplete: str) -> list[str]:
    """Return the isolation levels without `auto` that complete a text in a shell."""
    return [level for level in LEVELS if level.startswith(incomplete)]


IsolationOption = Annotated[
    str | None,
    typer.Option(
        "--isolation",
        metavar="auto|firecracker|qemu|process",
        help="Isolation level of the VMs.",
        show_default="node.isolation in the configuration, else auto",
        autocompletion=complete_isolation,
    ),
]

_ARGUMENTS = "plexspaces.arguments"


def check_isolation(level: str | None) -> None:
    """Raise `InvalidArgument` for an unknown level, before anything takes long."""
    if level not in (None, "auto", *LEVELS):
        raise InvalidArgument(
            f"unknown isolation level {level!r}", hint=f"choose one of auto, {', '.join(LEVELS)}"
        )


class WithArguments(TyperCommand):
    """A command that takes the arguments of another program after `--`; see `arguments_of`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_ARGUMENTS] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARG...]"]


def arguments_of(ctx: typer.Context) -> tuple[str, ...]:
    """Return what was given after `--` to a command created `WithArguments`."""
    given: tuple[str, ...] = ctx.meta[_ARGUMENTS]
    return given


def address_of(flag: str | None) -> str:
    """Return the node's address: the flag's or variable's, else the configuration's.

    A node of the configuration that runs on this host is reached by the unix socket in its data
    directory, into which the kernel lets its user and root, if no notice tells this user of one at
    that address, or if the configuration names a directory and no address.
    Reads the configuration only if it is needed; raises `InvalidArgument` if that is wrong, and for
    an empty flag. An empty variable counts as not set.
    """
    if flag == "":
        # As in a script whose own variable is not set: it does not mean another node.
        raise InvalidArgument(
            "--node-address is empty", hint="pass HOST:PORT, or omit --node-address"
        )
    if flag:
        return flag
    config = plexspaces_node.ConfigBootstrap.load()
    node = config.node
    is_meant = names_directory_alone(config) or find(node.address) is None
    if is_meant and is_answering(path := node.data_dir / GRPC_SOCKET):
        return f"{UNIX}{path}"
    return node.address


def names_directory_alone(config: Config) -> bool:
    """Return whether a configuration says which node is meant by its data directory alone.

    At the address that is nobody's choice another node may listen.
    """
    is_said = config.origin("node.data_dir") != "default"
    return is_said and config.origin("node.address") == "default"


def check_project(project: Path) -> None:
    """Raise `InvalidArgument` if the directory does not exist, as for a missing file."""
    try:
        if project.is_dir():
            return
        is_file = project.exists()
    except OSError as error:
        raise InvalidArgument(f"{str(project)!r} cannot be read: {error.strerror}") from error
    if is_file:
        raise InvalidArgument(
            f"{str(project)!r} is a file, not a project directory",
            hint=f"plexspaces deploy {quoted(project)}",
        )
    raise InvalidArgument(
        f"{str(project)!r} does not exist",
        hint="plexspaces build DIR, or plexspaces deploy DIR",
    )


def name_of(given: str | None, option: str | None) -> str:
    """Return the name that was given in one of two ways; raises `InvalidArgument` otherwise."""
    name = given or option
    if name is None or (given and option and given != option):
        fault = "no application name given" if name is None else "two different names given"
        raise InvalidArgument(fault, hint="pass one NAME; list them with: plexspaces list")
    return name


def pairs_of(
    pairs: Iterable[str], flag: str, example: str, *, form: str = "NAME=VALUE"
) -> dict[str, str]:
    """Read the `K=V` texts of a flag; raises `InvalidArgument` for one without `=`."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            # The text is not repeated, because it may be a secret in the wrong place.
            raise InvalidArgument(
                f"{flag} takes {form}, but one value has no '='",
                hint=f"plexspaces deploy … {flag} {example}",
            )
        found[key] = value
    return found


def complete_language(incomplete: str) -> list[str]:
    """Return the languages that complete a text in a shell."""
    return [language for language in LANGUAGES if language.startswith(incomplete)]
