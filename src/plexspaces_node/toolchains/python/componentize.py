"""How to call componentize-py."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.toolchain import Compiler

INSTALL = "pip install 'plexspaces-node[build-python]'"
TESTED_VERSION = "0.25.1"
"""Bindings of other series have other names. For any other version it must first be checked that it
does not free the bytes that are freed here (`python.memory`), or they would be freed twice."""

_TYPES = "plexspaces:application/types@0.1.0=types"


@dataclass(frozen=True, slots=True)
class World:
    """What a component imports and exports: a name in a directory of WIT."""

    name: str
    wit: Path


def arguments(
    compiler: Compiler, world: World, module: str, mounts: Iterable[Path], output: Path
) -> list[str]:
    """Return the command line: it imports `module`, and mounts the directories as /0, /1, ..."""
    paths = [part for mount in mounts for part in ("-p", str(mount))]
    return [
        str(compiler.program),
        "--quiet",
        *("--wit-path", str(world.wit), "--world", world.name),
        # In each world the same, also where another interface is called `types`.
        *("--import-interface-name", _TYPES),
        *("componentize", module, *paths, "--output", str(output)),
    ]


def actor_world(*, fetches: bool = False) -> World:
    """Return the world of an actor. One that does not fetch runs on nodes without that import."""
    return World("application-with-http" if fetches else "application", shipped("wit"))


def interpreter_variables(environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
    """Return its environment. Creates a directory in `scratch`."""
    # Packages of the node's own environment must not get into an application: the compiler searches
    # the virtual environment it is given, so it is given an empty one.
    empty = scratch / "venv"
    (empty / "lib" / "python3" / "site-packages").mkdir(parents=True, exist_ok=True)
    return {
        "PATH": environment.variables.get("PATH", os.defpath),
        "TMPDIR": str(scratch),
        "VIRTUAL_ENV": str(empty),
    }
