"""The command `build`: from a project's source to a WebAssembly file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.build import build as build_project
from plexspaces_node.cli.options import Json
from plexspaces_node.cli.output import milliseconds, note, print_json, say, size

app = typer.Typer()


@app.command(epilog="Example:  plexspaces build examples/python-calculator -o calculator.wasm")
def build(
    project: Annotated[
        Path, typer.Argument(metavar="DIR", help="The project.", show_default="this directory")
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to.", show_default="dist/NAME.wasm in it"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a project; its language is read from its files."""
    result = asyncio.run(build_project(project, output, progress=note))
    if as_json:
        print_json(result)
        return
    how = ", unchanged" if result.cached else ""
    say(
        f"✓ Built {result.path} ({result.language} {result.kind}, {size(result.size_bytes)}) "
        f"in {milliseconds(result.duration_ns)}{how}"
    )
