"""The command `toolchain install`: compilers that no package of this product includes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from plexspaces_node.cli.output import note, say
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import Language
from plexspaces_node.toolchains import BuildEnvironment
from plexspaces_node.toolchains.build import TOOLCHAINS
from plexspaces_node.toolchains.rust.toolchain import install as install_rust
from plexspaces_node.toolchains.typescript.toolchain import install as install_typescript

app = typer.Typer()
_EXAMPLE = "Example:  plexspaces toolchain install typescript"

toolchain_app = typer.Typer(help="Install language compilers.", epilog=_EXAMPLE)
app.add_typer(toolchain_app, name="toolchain")

_INSTALLERS = {Language.RUST: install_rust, Language.TYPESCRIPT: install_typescript}


@toolchain_app.command("install", epilog=_EXAMPLE)
def install(
    language: Annotated[str, typer.Argument(metavar="LANG", help="rust or typescript.")],
) -> None:
    """Install the pinned compilers that `build` needs for a language, for this user."""
    installer = next((_INSTALLERS[one] for one in _INSTALLERS if one == language), None)
    if installer is None:
        other = next((one.install for one in TOOLCHAINS if one.language == language), None)
        raise InvalidArgument(
            f"there is no toolchain to install for {language!r}",
            hint=other or f"choose one of {', '.join(_INSTALLERS)}",
        )
    place = asyncio.run(installer(BuildEnvironment.here(), progress=note))
    say(f"✓ Installed the {language} toolchain in {place}")


@toolchain_app.callback()
def _toolchain() -> None:
    """Install language compilers."""
