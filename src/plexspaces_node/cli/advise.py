"""The command `advise`: what to change, by what a node measured."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

import plexspaces_node
from plexspaces_node import level_figures
from plexspaces_node.cli.options import GivenName, Json, NodeAddress, address_of, tenant_option
from plexspaces_node.cli.output import columns, note, print_json, printable, say, size
from plexspaces_node.cli.progress import working
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.level_figures import LevelFigures
from plexspaces_node.telemetry import Advice, AdviceReport, Fact, duration

if TYPE_CHECKING:
    from plexspaces_node.cli.level_measuring import Measured

app = typer.Typer()

_MOST_COLUMNS = 100

_UNITS: Mapping[str, Callable[[float], str]] = {
    "ns": duration,
    "bytes": lambda value: size(round(value)),
    "per_s": lambda value: f"{value:.3g} per s",
    "ratio": lambda value: f"{value:.0%}" if value <= 1 else f"{value:.3g}×",
    "count": lambda value: f"{value:.0f}",
}


@app.command(epilog="Example:  plexspaces advise calculator")
def advise(
    name: GivenName = None,
    tenant: Annotated[
        str,
        tenant_option(
            "Only the applications of this tenant.", show_default="all that the token allows"
        ),
    ] = "",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure what each isolation level costs on this host, for advice about levels. "
            "Takes half a minute, and needs no node.",
        ),
    ] = False,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Say what to change, by what was measured of the last minutes.

    Each advice has the numbers that it was reckoned from, and what it is predicted to save. What
    there is too little data for is listed below.
    """
    if measure:
        if name:
            raise InvalidArgument(
                "--measure is about this host, not about an application",
                hint="plexspaces advise --measure",
            )
        _measure(as_json=as_json)
        return

    async def fetch() -> AdviceReport:
        async with NodeClient(address_of(node_address)) as client:
            return await client.advise(name or "", tenant=tenant)

    report = asyncio.run(fetch())
    if as_json:
        print_json(report)
        return
    for line in lines_of(report, min(_MOST_COLUMNS, shutil.get_terminal_size().columns)):
        say(line)


def _measure(*, as_json: bool) -> None:
    # Not before: it loads a node.
    measuring = import_module("plexspaces_node.cli.level_measuring")
    config = plexspaces_node.ConfigBootstrap.load()
    path = level_figures.default_path()
    if path is None:
        raise InvalidArgument(
            "there is no home directory for the figures",
            hint="set XDG_DATA_HOME to a directory you can write to",
        )

    async def run() -> list[Measured]:
        with working("measuring") as step:
            return [one async for one in measuring.measure_levels(config, step)]

    measured = asyncio.run(run())
    figures = [one.figures for one in measured if one.figures is not None]
    level_figures.write(path, figures)
    if as_json:
        print_json([msgspec.structs.asdict(one) for one in figures])
    else:
        for line in columns(list(_table(figures))):
            say(line)
    for one in measured:
        if one.figures is None:
            note(printable(f"{one.level} was not measured: {one.why_not}"))
    note(f"✓ Kept in {path}; nodes of this user on this host use it")
    if not figures:
        raise Unsupported("no isolation level works here", hint="plexspaces doctor")


def _table(figures: Sequence[LevelFigures]) -> Iterator[tuple[str, ...]]:
    yield "LEVEL", "PASSING A MESSAGE", "VM START", "LOAD", "COMPUTE", ""
    for one in figures:
        yield (
            *(one.level, duration(one.link_ns), duration(one.vm_ns), duration(one.load_ns)),
            *(duration(one.compute_ns), "emulated" if one.emulated else ""),
        )


def lines_of(report: AdviceReport, width: int) -> Iterator[str]:
    """Yield what the command prints, in lines of a width if words allow it."""
    if not report.advice:
        yield "Nothing to advise."
    for number, one in enumerate(report.advice, 1):
        if number > 1:
            yield ""
        yield from _lines_of(number, one, width)
    if report.insufficient:
        yield ""
        yield "Too little data:"
        for line in report.insufficient:
            yield from _wrapped(line, width, "  - ", "    ")


def _lines_of(number: int, one: Advice, width: int) -> Iterator[str]:
    about = " and ".join(filter(None, (one.application, one.other))) or "all applications"
    yield printable(f"{number}. {one.rule}: {about}{gain_of(one)}")
    yield from _wrapped(one.advice, width)
    if one.facts:
        facts = "; ".join(_fact(fact) for fact in one.facts)
        yield from _wrapped(f"Measured: {facts}.", width)
    if one.reckoning:
        yield from _wrapped(f"Reckoned: {one.reckoning}", width)
    if one.command:
        # In one line, however long: it is copied.
        yield f"   $ {printable(one.command)}"


def gain_of(one: Advice) -> str:
    """Return what an advice saves or costs, with what goes before it; "" for neither."""
    if one.saved_s_per_s > 0:
        return f", saves {duration(one.saved_s_per_s * 1e9)} of each second"
    if one.saved_s_per_s < 0:
        return f", costs {duration(-one.saved_s_per_s * 1e9)} of each second"
    return f", saves {size(one.saved_bytes)}" if one.saved_bytes else ""


def _fact(fact: Fact) -> str:
    written = _UNITS.get(fact.unit)
    return f"{fact.name} {written(fact.value) if written else fact.value}"


def _wrapped(text: str, width: int, first: str = "   ", then: str = "   ") -> Sequence[str]:
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
