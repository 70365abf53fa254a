"""What a node of a cluster needs on this host: the NATS server beside it, and the client."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding, one_line
from plexspaces_node.errors import Unsupported
from plexspaces_node.node.nats.server import INSTALL, find_program

AREA = "Cluster"

OLDEST = (2, 12)
"""The first release of NATS whose writes can be fenced by another key."""

_TIMEOUT_S = 20.0


def check_cluster(config: Config) -> list[Finding]:
    """Look for both, and run the server for its version: some 50 ms; never raises.

    They are needed only where the settings or the data directory say that there is a cluster.
    """
    cluster = config.cluster
    needed = bool(cluster.name or cluster.join or (config.node.data_dir / "cluster").is_dir())
    # What is optional and not there is no fault.
    missing = False if needed else None
    return [*_server(config, missing), *_client(missing)]


def _server(config: Config, missing: bool | None) -> Iterator[Finding]:
    if config.nats.url:
        yield Finding(AREA, "nats-server", None, f"elsewhere: {config.nats.url}")
        return
    try:
        program = find_program()
    except Unsupported as error:
        yield Finding(AREA, "nats-server", missing, "not installed", error.hint)
        return
    try:
        said = _version_of(program)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(AREA, "nats-server", missing, f"{program} does not run: {error}", INSTALL)
        return
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version < OLDEST:
        detail = f"{said} at {program}: {'.'.join(map(str, OLDEST))} or later is needed"
        yield Finding(AREA, "nats-server", missing, detail, INSTALL)
    else:
        yield Finding(AREA, "nats-server", True, f"{said} at {program}")


def _client(missing: bool | None) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("nats-py")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(AREA, "nats-py", missing, "not installed", INSTALL)
    else:
        yield Finding(AREA, "nats-py", True, version)


def _version_of(program: Path) -> str:
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    return one_line(done.stdout or done.stderr).removeprefix("nats-server: ")
