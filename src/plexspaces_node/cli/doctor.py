"""The commands about this host: `doctor` and `config show`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plexspaces_node.cli.options import ConfigFile, Json
from plexspaces_node.cli.output import counted, print_json, say
from plexspaces_node.cli.progress import working
from plexspaces_node.cli.status import FAILED
from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.doctor.checks import examine, render, required_ok, to_json
from plexspaces_node.doctor.security import examine_security
from plexspaces_node.isolation import make_drivers

app = typer.Typer()
config_app = typer.Typer()
app.add_typer(config_app, name="config")


@app.command(epilog="Example:  plexspaces doctor")
def doctor(
    config: ConfigFile = None,
    as_json: Json = False,
    security: Annotated[
        bool,
        typer.Option(
            "--security", help="Check what keeps users and applications apart on this host."
        ),
    ] = False,
) -> None:
    """Check this host and show how to fix what does not work.

    Exits with status 1 if a required check fails.
    """
    loaded = ConfigBootstrap.load(config)
    if security:
        _security(loaded, as_json=as_json)
        return
    with working("checking this host"):
        findings = asyncio.run(examine(loaded, make_drivers(loaded)))
    if as_json:
        say(to_json(findings))
    else:
        render(findings, Console(markup=False, highlight=False, emoji=False))
    if not required_ok(findings):
        raise typer.Exit(FAILED)


def _security(config: Config, *, as_json: bool) -> None:
    with working("checking the security of this host"):
        findings = asyncio.run(examine_security(config))
    if as_json:
        say(to_json(findings))
    else:
        warnings = counted(sum(finding.ok is None for finding in findings), "warning")
        console = Console(markup=False, highlight=False, emoji=False)
        render(findings, console, fine=f"nothing is open that should be closed; {warnings}")
    if not required_ok(findings):
        raise typer.Exit(FAILED)


@config_app.command("show", epilog="Example:  plexspaces config show --config release.toml")
def config_show(config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every setting with its value and where the value comes from."""
    settings = list(ConfigBootstrap.load(config).items())
    if as_json:
        print_json(
            {key: {"value": _jsonable(value), "origin": origin} for key, value, origin in settings}
        )
        return
    texts = [(_as_line(key, value), origin) for key, value, origin in settings]
    width = min(max(len(text) for text, _ in texts), 60)
    for text, origin in texts:
        say(f"{text:<{width}}  # {origin}")


@config_app.callback(epilog="Example:  plexspaces config show")
def _config() -> None:
    """Show the configuration."""


def _jsonable(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _as_line(key: str, value: object) -> str:
    # None does not exist in TOML, whose basic strings are escaped like those of JSON.
    if value is None:
        return f"#{key} ="
    return f"{key} = {json.dumps(_jsonable(value), ensure_ascii=False)}"
