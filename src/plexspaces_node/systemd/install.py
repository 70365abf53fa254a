"""Installs a node as a service of systemd: its user, its configuration, its unit.

What is there is never changed unasked: a configuration that exists is read and kept, and a unit
that differs is shown and kept.
"""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.address import split_address
from plexspaces_node.config import SYSTEM_FILE, Config, ConfigBootstrap
from plexspaces_node.errors import AlreadyExists, Unavailable, quoted
from plexspaces_node.node.api import descriptors
from plexspaces_node.systemd.unit import NAME, STATE, Service, in_a_home, stop_limit_s, unit

UNITS = Path("/etc/systemd/system")
KVM_GROUP = "kvm"

_LOW_PORTS = 1024
_PROGRAM = "plexspaces"
_TIMEOUT_S = 30.0
_CONFIGURATION = """\
# The service reads this file, and so does every `plexspaces` command on this host that finds no
# other. `plexspaces config show` prints all settings.

[node]
data_dir = "{data_dir}"
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an installation writes; nothing of it is done yet.

    Attributes:
        unit: where the unit is to be.
        text: what is to be in it.
        configuration: where the configuration is to be.
        content: what is to be in it, or None because it exists.
        service: what the unit was made from.
        interpreter: the Python that runs the program.
    """

    unit: Path
    text: str
    configuration: Path
    content: str | None
    service: Service
    interpreter: Path


def plan(  # noqa: PLR0913 - each by its name
    *,
    user: str,
    configuration: Path = SYSTEM_FILE,
    data_dir: Path | None = None,
    directory: Path = UNITS,
    program: Sequence[str] = (),
    interpreter: Path = Path(sys.executable),
) -> Plan:
    """Decide what to write; reads the configuration if it exists, and changes nothing.

    `program` is the command of this program if it is not the installed one, and `interpreter` the
    Python that runs it. Raises `InvalidArgument` for a configuration that a node refuses, and for
    paths that a service cannot reach.
    """
    exists = configuration.exists()
    # The service has none of our variables, nor our home directory.
    config = ConfigBootstrap.load(configuration, environ={}) if exists else _defaults()
    config.check_listen()
    told = config.node.data_dir if config.origin("node.data_dir") != "default" else None
    place = data_dir or told or STATE / config.node.id
    command = [*(program or _this_program()), "start-node", "--config", str(configuration)]
    if exists and place != told:
        command += ["--data-dir", str(place)]
    connections = 2 * descriptors.MOST_CONNECTIONS
    service = Service(
        command=tuple(command),
        user=user,
        data_dir=place,
        groups=_groups(user),
        stop_s=stop_limit_s(config.node.grace_s),
        descriptors=descriptors.reserve(config.limits.applications) + connections,
        low_port=_has_low_port(config),
        reads_homes=any(
            map(in_a_home, _read_by(Path(command[0]), interpreter, configuration, *_named(config)))
        ),
    )
    content = None if exists else _CONFIGURATION.format(data_dir=place)
    return Plan(directory / NAME, unit(service), configuration, content, service, interpreter)


def difference(planned: Plan) -> str:
    """Return how the unit that exists would change, as a unified diff; "" if it would not.

    Raises `Unavailable` if it cannot be read.
    """
    before = _unit_there(planned)
    if before is None:
        return ""
    names = (str(planned.unit), f"{planned.unit} (new)")
    old, new = before.splitlines(keepends=True), planned.text.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, *names))


def write(planned: Plan, *, force: bool = False) -> list[Path]:
    """Write what is missing, and return it; nothing if all is there already.

    Raises `AlreadyExists` if the unit exists and differs, unless `force`; `Unavailable` if a file
    cannot be read or written.
    """
    there = _unit_there(planned)
    if there not in (None, planned.text) and not force:
        raise AlreadyExists(
            f"{planned.unit} exists and is different",
            hint="see the difference, then overwrite it: plexspaces install-service --force",
        )
    written = []
    if planned.content is not None:
        _write(planned.configuration, planned.content)
        written.append(planned.configuration)
    if there != planned.text:
        _write(planned.unit, planned.text)
        written.append(planned.unit)
    return written


def warnings(planned: Plan) -> list[str]:
    """Return what would keep the service from working, with what helps; looks at files only."""
    service = planned.service
    if service.user == "root":
        return []
    found = []
    files = _read_by(Path(service.command[0]), planned.interpreter)
    closed = sorted({directory for file in files for directory in _closed(file)})
    if closed:
        found.append(
            f"only its owner may enter {closed[0]}, so user {service.user} cannot start the "
            "program; install it where all may read it: python3 -m venv /opt/plexspaces && "
            "/opt/plexspaces/bin/pip install plexspaces-node"
        )
    config = planned.configuration
    if config.is_file() and not config.stat().st_mode & stat.S_IROTH:
        found.append(
            f"only its owner and group may read {config}; if user {service.user} cannot: "
            f"chgrp {service.user} {quoted(config)} && chmod 640 {quoted(config)}"
        )
    return found


def user_exists(user: str) -> bool:
    """Return whether the host has a user of this name."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def create_user_command(user: str) -> list[str]:
    """Return the command that creates a system user who cannot log in."""
    home = ("--home-dir", str(STATE), "--no-create-home")
    return ["useradd", "--system", "--user-group", *home, "--shell", "/usr/sbin/nologin", user]


def create_user(
    user: str, *, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> None:
    """Create the user; raises `Unavailable` with what useradd says."""
    command = create_user_command(user)
    try:
        done = run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"useradd failed: {error}", hint=" ".join(command)) from error
    if done.returncode:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise Unavailable(f"user {user!r} could not be created: {said}", hint=" ".join(command))


def _unit_there(planned: Plan) -> str | None:
    try:
        return planned.unit.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"{planned.unit} cannot be read: {error}", hint=f"ls -l {quoted(planned.unit)}"
        ) from error


def _named(config: Config) -> list[Path]:
    """Return the files that a configuration names itself: keys, certificates, programs, images."""
    told = (value for key, value, origin in config.items() if origin != "default")
    return [value for value in told if isinstance(value, Path)]


def _read_by(*files: Path) -> set[Path]:
    """Return where files are, by their names and by where links of theirs lead."""
    return {place for file in files for place in (file, file.resolve())}


def _closed(path: Path) -> list[Path]:
    """Return the directories on the way to a file that only their owner may enter."""
    there = (one for one in path.parents if one.exists())
    return [one for one in there if not one.stat().st_mode & stat.S_IXOTH]


def _defaults() -> Config:
    with tempfile.NamedTemporaryFile() as empty:
        return ConfigBootstrap.load(empty.name, environ={})


def _this_program() -> list[str]:
    script = Path(sys.executable).parent / _PROGRAM
    if script.is_file() and os.access(script, os.X_OK):
        return [str(script)]
    found = shutil.which(_PROGRAM)
    return [found] if found else [sys.executable, "-m", "plexspaces_node.cli.main"]


def _groups(user: str) -> tuple[str, ...]:
    # A unit that names a group which does not exist is not started.
    if user == "root":
        return ()
    try:
        grp.getgrnam(KVM_GROUP)
    except KeyError:
        return ()
    return (KVM_GROUP,)


def _has_low_port(config: Config) -> bool:
    addresses = (config.node.address, config.node.metrics_address, config.http.address)
    ports = [split_address(address)[1] for address in addresses if address]
    return any(0 < port < _LOW_PORTS for port in ports)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        # The service's user reads its configuration, and systemd warns of other modes.
        fresh.chmod(0o644)
        fresh.replace(path)
    except OSError as error:
        root = "sudo plexspaces install-service"
        hint = root if os.geteuid() else f"ls -ld {quoted(path.parent)}"
        raise Unavailable(f"{path} cannot be written: {error.strerror}", hint=hint) from error
