"""The commands `backup`, `restore` and `verify`: they work on a data directory, not on a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import plexspaces_node
from plexspaces_node.cli.options import ConfigFile, Json
from plexspaces_node.cli.output import note, print_fields, print_json, printable, say
from plexspaces_node.cli.progress import working
from plexspaces_node.cli.status import FAILED
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.node.backup import read, write
from plexspaces_node.node.backup.format import BackupInfo

if TYPE_CHECKING:
    from plexspaces_node.config import Config

app = typer.Typer()

_NodeId = Annotated[
    str | None,
    typer.Option("--node-id", metavar="ID", help="Node ID.", show_default="node-1"),
]
_OtherId = Annotated[
    str | None,
    typer.Option(
        "--node-id", metavar="ID", help="ID of the restored node.", show_default="the backup's"
    ),
]
_DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Data directory.",
        show_default="~/.local/share/plexspaces/ID",
    ),
]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Backup file.", show_default=False)]


@app.command(epilog="Example:  plexspaces backup node-1.tar --node-id node-1")
def backup(  # noqa: PLR0913 - a parameter a flag
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Output file; - for stdout.", show_default=False),
    ],
    node_id: _NodeId = None,
    data_dir: _DataDir = None,
    config: ConfigFile = None,
    without_artifacts: Annotated[
        bool,
        typer.Option(
            "--without-artifacts",
            help="Leave out the WebAssembly files; deploy them again after a restore.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a node's applications, states, keys, logs and artifacts to one file.

    The node may keep running. The file contains the environment variables of
    applications: protect it as you protect those. Secrets are in it encrypted, and
    their key is not.
    """
    place = _place(config, node_id, data_dir)
    artifacts = not without_artifacts
    if str(file) == "-" and (as_json or sys.stdout.isatty()):
        raise InvalidArgument(
            "a backup written to stdout needs a pipe or a file, and no --json",
            hint="plexspaces backup FILE, or … | ssh backup-host 'cat > node.tar'",
        )
    with working(f"writing {file}"):
        if str(file) == "-":
            info = write.stream_backup(place, sys.stdout.buffer, artifacts=artifacts)
        else:
            info = write.back_up(place, file, artifacts=artifacts)
    if str(file) == "-":
        note(f"written, SHA-256 {info.sha256}")
    elif as_json:
        print_json(_described(info) | {"file": str(file)})
    else:
        _print(info, f"✓ Backup written: {file}")
    if artifacts:
        _tell(info.missing)
    if info.secret_keys:
        note(f"keep a copy of {_keys_of(info)} elsewhere: without it secrets cannot be restored")


@app.command(epilog="Example:  plexspaces restore node-1.tar --data-dir /var/lib/plexspaces/node-1")
def restore(
    file: _File,
    node_id: _OtherId = None,
    data_dir: _DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty data directory, on this or another machine.

    The whole backup is checked before any of it is used. Start the node afterwards.
    """
    node_id = node_id or read.read_manifest(file).node_id
    loaded = _configuration(config, node_id, data_dir)
    place = loaded.node.data_dir
    with working(f"restoring {file}"):
        info = read.restore(file, place, node_id)
    if as_json:
        print_json(_described(info) | {"node_id": node_id, "data_dir": str(place)})
    else:
        _print(info, f"✓ Restored into {place}")
        say(f"Start it:  plexspaces start-node --node-id {node_id} --data-dir {quoted(place)}")
    _tell(info.missing)
    if info.secret_keys:
        key_file = loaded.secrets.key_file
        where = "" if info.passphrase_key in info.secret_keys else f", for example in {key_file}"
        note(f"applications that use secrets need {_keys_of(info)}{where}")


@app.command(epilog="Example:  plexspaces verify node-1.tar")
def verify(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Backup file or data directory.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Check every byte of a backup, or the registry and artifacts of a data directory.

    Changes nothing; the node may keep running. Exits with status 1 if an artifact is missing.
    """
    with working(f"checking {path}"):
        if path.is_dir():
            contents, missing = read.verify_data(path)
            facts = {"schema": contents.schema, "applications": list(contents.artifacts)}
            fields = [("Applications", str(len(contents.artifacts)))]
        else:
            info = read.verify(path)
            facts, fields = _described(info), _fields(info)
            missing = info.missing if info.manifest.artifacts else ()
    if as_json:
        print_json({"whole": not missing, "missing_artifacts": list(missing)} | facts)
    else:
        say(f"{'✗' if missing else '✓'} {path} is {'incomplete' if missing else 'intact'}")
        print_fields(fields)
    _tell(missing)
    if missing:
        raise typer.Exit(FAILED)


def _keys_of(info: BackupInfo) -> str:
    """Return in words what reads the secrets of a backup."""
    if info.passphrase_key in info.secret_keys:
        return "the passphrase of the secrets"
    return f"the key of the secrets ({printable(', '.join(info.secret_keys))})"


def _place(config: str | None, node_id: str | None, data_dir: str | None) -> Path:
    return _configuration(config, node_id, data_dir).node.data_dir


def _configuration(config: str | None, node_id: str | None, data_dir: str | None) -> Config:
    flags = {"node.id": node_id, "node.data_dir": data_dir}
    if data_dir == "":
        raise InvalidArgument("--data-dir is empty", hint="pass a directory, or omit --data-dir")
    return plexspaces_node.ConfigBootstrap.load(config, flags)


def _print(info: BackupInfo, headline: str) -> None:
    say(headline)
    print_fields(_fields(info))


def _fields(info: BackupInfo) -> list[tuple[str, str]]:
    return [
        ("Node", f"{info.manifest.node_id}, {info.manifest.created}"),
        ("Applications", str(len(info.applications))),
        ("Artifacts", "included" if info.manifest.artifacts else "not included"),
        ("Secrets", "encrypted, without their key" if info.secret_keys else "none"),
        ("Size", f"{info.size_bytes / 2**20:.1f} MiB"),
        ("SHA-256", info.sha256),
    ]


def _described(info: BackupInfo) -> dict[str, Any]:
    manifest = info.manifest
    return {
        "node_id": manifest.node_id,
        "created": manifest.created,
        "version": manifest.version,
        "schema": manifest.schema,
        "applications": list(info.applications),
        "artifacts": manifest.artifacts,
        "missing_artifacts": list(info.missing),
        "secret_keys": list(info.secret_keys),
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
    }


def _tell(missing: tuple[str, ...]) -> None:
    if missing:
        names = printable(", ".join(missing))
        note(f"these artifacts are missing; deploy their applications again: {names}")
