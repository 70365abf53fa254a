"""Where the product's own files are: the contract, the SDKs, the examples.

In an installed wheel they are in the packages; in a checkout some are at its root.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from plexspaces_node.errors import NotFound, quoted

PACKAGE = "plexspaces_node"
PYTHON_SDK = "plexspaces_actor"


def shipped(name: str) -> Path:
    """Return the directory `name` (``wit``, ``examples``) of this installation.

    Raises `NotFound` if the installation is incomplete.
    """
    package = Path(str(resources.files(PACKAGE)))
    # src/plexspaces_node in a checkout: its root is two levels up.
    for place in (package / name, package.parent.parent / name):
        if place.is_dir():
            return place
    raise NotFound(
        f"the directory {name!r} of the {PACKAGE} package is missing",
        hint="reinstall it: pip install --force-reinstall plexspaces-node",
    )


def copy_hint(name: str, target: str, *, then: str = "") -> str:
    """Return the command that copies the directory `name` into a project, as `target`."""
    try:
        directory = shipped(name)
    except NotFound as exc:
        return str(exc.hint)
    copy = f"rm -rf {quoted(target)} && cp -r {quoted(directory)} {quoted(target)}"
    return f"in the project: {copy}{then}"


def python_sdk() -> Path:
    """Return the directory of the package that Python applications import."""
    return Path(str(resources.files(PYTHON_SDK)))


def http_wit() -> Path:
    """Return the directory of `wasi:http` 0.3 as builds of HTTP components use it."""
    return shipped("toolchains/locked/http/wit")
