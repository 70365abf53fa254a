"""The command `install-service`: a node as a service of systemd."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.cli.output import note, say
from plexspaces_node.config import SYSTEM_FILE
from plexspaces_node.errors import quoted
from plexspaces_node.systemd import install
from plexspaces_node.systemd.exposure import exposure_of
from plexspaces_node.systemd.unit import NAME, USER

app = typer.Typer()


@app.command("install-service", epilog="Example:  plexspaces install-service")
def install_service(  # noqa: PLR0913 - the flags of the command
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="USER",
            help="User of the service, created if it does not exist. With root, each VM has a "
            "user of its own, and Firecracker its jailer.",
        ),
    ] = USER,
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Configuration of the service, written if it does not exist.",
        ),
    ] = SYSTEM_FILE,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Data directory.",
            show_default="node.data_dir in the configuration, else /var/lib/plexspaces/ID",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory of the unit.")
    ] = install.UNITS,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the unit and change nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a unit that is different.")
    ] = False,
) -> None:
    """Write a systemd unit for a node that starts with the host.

    The node tells systemd when it is ready, has a user of its own, and is confined as far as its
    VMs allow. Nothing is started: the commands for that are printed.
    """
    planned = install.plan(
        user=user,
        configuration=config.absolute(),
        data_dir=data_dir.absolute() if data_dir else None,
        directory=directory.absolute(),
    )
    if only_print:
        say(planned.text.rstrip("\n"))
    else:
        _write(planned, force=force)
    _tell_exposure(planned, note if only_print else say)
    for warning in install.warnings(planned):
        note(f"warning: {warning}")
    if not only_print:
        _tell_what_is_next(planned)


def _write(planned: install.Plan, *, force: bool) -> None:
    changes = install.difference(planned)
    if changes:
        say(changes.rstrip("\n"))
    user = planned.service.user
    written = install.write(planned, force=force)
    # Only for this host itself: a unit elsewhere may be for another one.
    if planned.unit.parent == install.UNITS and os.geteuid() == 0 and not install.user_exists(user):
        install.create_user(user)
        say(f"✓ Created user {user}")
    for path in written:
        say(f"✓ Wrote {path}")
    if not written:
        say(f"✓ {planned.unit} is up to date")


def _tell_exposure(planned: install.Plan, tell: Callable[[str], None]) -> None:
    found = exposure_of(planned.text)
    if found is None:
        tell("  Exposure: unknown (systemd-analyze 250 or newer would tell)")
    else:
        number, word = found
        tell(f"  Exposure: {number} of 10, {word} (systemd-analyze security {NAME})")


def _tell_what_is_next(planned: install.Plan) -> None:
    say("Next:")
    user, place = planned.service.user, planned.service.data_dir
    if not install.user_exists(user):
        say(f"  {' '.join(install.create_user_command(user))}")
    if planned.unit.parent != install.UNITS:
        say(f"  cp {quoted(planned.unit)} {quoted(install.UNITS)}")
    if not place.is_relative_to("/var/lib"):
        say(f"  install -d -m 700 -o {user} {quoted(place)}")
    say("  systemctl daemon-reload")
    say(f"  systemctl enable --now {NAME}")
