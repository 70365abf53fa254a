"""The commands `new` and `build`: from nothing to a project, from source to a WebAssembly file."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.cli.options import Json, check_project, complete_language
from plexspaces_node.cli.output import milliseconds, print_json, say, size
from plexspaces_node.cli.progress import if_interrupted, working
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import LANGUAGES, Language
from plexspaces_node.toolchains import build as build_project
from plexspaces_node.toolchains import new_project

app = typer.Typer()


@app.command(
    epilog="Example:  plexspaces new python hello\n\nExample:  plexspaces new rust hello --http"
)
def new(
    language: Annotated[
        str,
        typer.Argument(
            metavar="LANG",
            help="rust, typescript, go or python.",
            autocompletion=complete_language,
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Project name.")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Output directory.", show_default="./NAME"),
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Create an HTTP component, which answers HTTP requests: in rust, typescript or "
            "python.",
        ),
    ] = False,
) -> None:
    """Create a project: a small application with a unit test, ready to build."""
    made = new_project(_language(language), name, directory or Path(name), http=http)
    here = Path.cwd()
    say(f"✓ Created {name} ({language}) in {made}")
    say("Next:")
    if made != here:
        shown = made.relative_to(here) if made.is_relative_to(here) else made
        say(f"  cd {shlex.quote(str(shown))}")
    say("  plexspaces build")
    say("  plexspaces deploy .")
    what = "requests" if http else "messages"
    say(f"See README.md for its {what} and how to run its tests.")


def _language(text: str) -> Language:
    if text not in LANGUAGES:
        raise InvalidArgument(
            f"unknown language {text!r}", hint=f"choose one of {', '.join(LANGUAGES)}"
        )
    return Language(text)


@app.command(epilog="Example:  plexspaces build examples/python-calculator -o calculator.wasm")
def build(
    project: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Project directory.", show_default="current directory"),
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Output file.",
            show_default="dist/NAME.wasm in DIR",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a project; its language is detected from its files."""
    check_project(project)
    with if_interrupted("the build is incomplete"), working("building") as step:
        result = asyncio.run(build_project(project, output, progress=step))
    if as_json:
        print_json(result)
        return
    how = ", unchanged" if result.cached else ""
    say(
        f"✓ Built {result.path} ({result.language} {result.kind}, {size(result.size_bytes)}) "
        f"in {milliseconds(result.duration_ns)}{how}"
    )
