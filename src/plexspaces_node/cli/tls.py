"""The commands about certificates: `tls init`, `tls client`, `tls renew` and `tls show`."""

from __future__ import annotations

import grp
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.certificates import DAYS, MOST_DAYS, CertificateInfo
from plexspaces_node.cli.options import ConfigFile, Json
from plexspaces_node.cli.output import note, print_fields, print_json, say
from plexspaces_node.cli.tls_directory import (
    FIRST_CLIENT,
    Bundle,
    TlsDirectory,
    default_directory,
    read_info,
)
from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.errors import InvalidArgument, NotFound

app = typer.Typer()
tls_app = typer.Typer()
app.add_typer(tls_app, name="tls")

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Directory of the certificates.",
        show_default="$XDG_CONFIG_HOME/plexspaces/tls",
    ),
]
Days = Annotated[
    int, typer.Option("--days", min=1, max=MOST_DAYS, help="How long it is valid, in days.")
]


@tls_app.callback(epilog="Example:  plexspaces tls init --host node.example")
def _tls() -> None:
    """Make, renew and show the certificates of a node and of its clients."""


@tls_app.command(epilog="Example:  plexspaces tls init --host node.example --host 192.0.2.7")
def init(
    host: Annotated[
        list[str],
        typer.Option(
            "--host",
            metavar="NAME_OR_IP",
            help="Host name or address by which clients call the node; may be repeated.",
        ),
    ],
    directory: Directory = None,
    days: Days = DAYS,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help="Group that may read the node's key, such as that of its service; for root.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a small CA, the node's certificate and a client's.

    Overwrites nothing. Loopback names are always in the node's certificate.
    """
    made = TlsDirectory(_absolute(directory))
    made.create(host, days=days, group=None if group is None else _number_of(group))
    client = made.client(FIRST_CLIENT)
    if as_json:
        print_json(
            {
                "directory": made.path,
                "ca": made.ca,
                "ca_key": made.ca_key,
                "certificate": made.certificate,
                "key": made.key,
                "client": client.path,
            }
        )
        return
    info = read_info(made.certificate)
    say(f"✓ Made a CA, the node's certificate and a client's in {made.path}")
    print_fields(
        [
            ("CA", str(made.ca)),
            ("CA's key", f"{made.ca_key} (who has it can be any node and any client)"),
            ("Certificate", f"{made.certificate} (until {_day(info.not_after)})"),
            ("Key", str(made.key)),
            ("For", ", ".join(info.hosts)),
            ("Client", f"{client.path} (copy it to who manages the node)"),
        ]
    )
    say("\nAdd to release.toml, in ., ~/.config/plexspaces or /etc/plexspaces:\n")
    say("[tls]")
    say(f"certificate = {_toml(made.certificate)}")
    say(f"key = {_toml(made.key)}")
    say("# With this, clients need a certificate of the CA too:")
    say(f"#client_ca = {_toml(made.ca)}")
    host_in_url = _bracketed(info.hosts[0])
    say("# HTTP stays on this host without this:")
    say(f'#[http]\n#address = "{host_in_url}:8080"')
    address = f"{host_in_url}:9000"
    say("\nThen make a token and start the node, and log in where you work:\n")
    say("plexspaces token create --name admin --scope admin")
    say(f"plexspaces start-node --address {address}")
    say(f"plexspaces login --node-address https://{address} --ca ca.pem")


@tls_app.command(epilog="Example:  plexspaces tls client shop/ci")
def client(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of its token: NAME, or TENANT/NAME.")
    ],
    config: ConfigFile = None,
    directory: Directory = None,
    days: Days = DAYS,
    as_json: Json = False,
) -> None:
    """Make a bundle for one more client: the CA's certificate, its own and its key.

    If the node has tls.client_ca, the client may do what the token of this name may. NAME without
    a tenant is a token of all tenants, else of the tenant default.
    """
    bundle = _place(config, directory).add_client(name, days=days)
    info = read_info(bundle.certificate)
    if as_json:
        print_json({"client": bundle.path, "certificate": _record(name, bundle.certificate, info)})
        return
    say(f"✓ Made a certificate for the client {name}, until {_day(info.not_after)}")
    print_fields(_files(bundle))


@tls_app.command(epilog="Example:  plexspaces tls renew")
def renew(  # noqa: PLR0913 - each a flag
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME_OR_IP",
            help="Host name or address, instead of those that it has; may be repeated.",
        ),
    ] = None,
    client_name: Annotated[
        str | None,
        typer.Option("--client", metavar="NAME", help="Renew this client's instead."),
    ] = None,
    config: ConfigFile = None,
    directory: Directory = None,
    days: Days = DAYS,
    as_json: Json = False,
) -> None:
    """Renew the node's certificate, or a client's, from the CA that is there.

    It is the configured one, unless --dir names another. The key stays. A running node takes the
    new certificate with its next connection.
    """
    place = _place(config, directory)
    if client_name is None:
        info, path = place.renew(host or [], days=days), place.certificate
    else:
        info = place.renew_client(client_name, days=days)
        path = place.client(client_name).certificate
    what = "node" if client_name is None else f"client {client_name}"
    if as_json:
        print_json(_record(what, path, info))
        return
    say(f"✓ Renewed {path}, until {_day(info.not_after)}")
    if info.hosts:
        print_fields([("For", ", ".join(info.hosts))])


@tls_app.command(epilog="Example:  plexspaces tls show --json")
def show(config: ConfigFile = None, directory: Directory = None, as_json: Json = False) -> None:
    """Show the certificates that are configured: their names, and until when they are valid.

    With --dir, and if none is configured, those of the directory.
    """
    found = _configured(config) if directory is None else []
    if not found:
        place = TlsDirectory(_absolute(directory))
        found = place.certificates()
        if not found:
            raise NotFound(
                f"no certificate is configured, and there is none in {str(place.path)!r}",
                hint="plexspaces tls init --host NAME",
            )
        if directory is None:
            note(f"no certificate is configured; these are in {place.path}")
    rows = [(what, path, read_info(path)) for what, path in found]
    if as_json:
        print_json([_record(*row) for row in rows])
        return
    for what, path, info in rows:
        say(f"{what}: {path}")
        print_fields(_described(info))


@dataclass(frozen=True, slots=True)
class _Shown:
    """A certificate as `--json` has it; times are ISO 8601 in UTC, `fault` is "" if it is valid."""

    what: str
    file: str
    name: str
    issuer: str
    hosts: tuple[str, ...]
    not_before: str
    not_after: str
    serial: str
    fault: str


def _record(what: str, path: Path, info: CertificateInfo) -> _Shown:
    return _Shown(
        what,
        str(path),
        info.name,
        info.issuer,
        info.hosts,
        info.not_before.isoformat(),
        info.not_after.isoformat(),
        info.serial,
        info.fault_at(datetime.now(UTC)) or "",
    )


def _described(info: CertificateInfo) -> list[tuple[str, str]]:
    fault = info.fault_at(datetime.now(UTC))
    fields = [("Name", info.name), ("Signed by", info.issuer)]
    if info.hosts:
        fields.append(("For", ", ".join(info.hosts)))
    fields.append(("Valid until", _day(info.not_after)))
    if fault:
        fields.append(("!", fault))
    return fields


def _place(config: str | None, directory: Path | None) -> TlsDirectory:
    """Return the directory that is named, else that of the configured certificate."""
    if directory is None and (certificate := ConfigBootstrap.load(config).tls.certificate):
        return TlsDirectory.of(certificate)
    return TlsDirectory(_absolute(directory))


def _number_of(group: str) -> int:
    if os.geteuid() != 0:
        # Of another owner, the node would refuse a key that a group can read.
        raise InvalidArgument("--group is for root", hint="run it with sudo, or omit --group")
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidArgument(
            f"there is no group {group!r}", hint="plexspaces install-service makes its own"
        ) from error


def _configured(config: str | None) -> list[tuple[str, Path]]:
    tls = ConfigBootstrap.load(config).tls
    named = [("node", tls.certificate), ("CA of clients", tls.client_ca)]
    return [(what, path) for what, path in named if path is not None]


def _files(bundle: Bundle) -> list[tuple[str, str]]:
    return [
        ("CA", str(bundle.ca)),
        ("Certificate", str(bundle.certificate)),
        ("Key", str(bundle.key)),
    ]


def _absolute(directory: Path | None) -> Path:
    return default_directory() if directory is None else directory.expanduser().absolute()


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _toml(path: Path) -> str:
    # A string of TOML escapes as one of JSON does.
    return json.dumps(str(path), ensure_ascii=False)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
