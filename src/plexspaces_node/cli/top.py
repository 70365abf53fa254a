"""The command `top`: what applications do, and where the time of their messages goes, live."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from plexspaces_node.cli import keys
from plexspaces_node.cli.bars import line_of, marks_of, terminal
from plexspaces_node.cli.options import NodeAddress, Tenant, address_of
from plexspaces_node.cli.output import columns, note, print_json_line, printable, say
from plexspaces_node.cli.top_table import Now, Sort, heading, rows, table, troubles
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.telemetry import ActivityUpdate

app = typer.Typer()

SHORTEST_S, LONGEST_S = 0.5, 60.0
RETRY_S = 1.0
"""How long after a lost connection, or one that could not be made again, it is tried again."""

_TROUBLES = 3
"""How many applications that do not run are explained below the live table."""

_EMPTY = "no applications yet; deploy one with: plexspaces deploy ."

_Updates = Callable[[], AsyncGenerator[ActivityUpdate, None]]


@app.command(epilog="Example:  plexspaces top --sort p99")
def top(  # noqa: PLR0913 - a command has a parameter for each of its flags
    sort: Annotated[
        Sort, typer.Option("--sort", help="What the table is sorted by.")
    ] = Sort.COORDINATION,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            min=SHORTEST_S,
            max=LONGEST_S,
            metavar="SECONDS",
            help="Time between two updates.",
        ),
    ] = 2.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Print one table, the default if stdout is no terminal, or one object."
        ),
    ] = False,
    tenant: Tenant = None,
    node_address: NodeAddress = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON, one object with all applications a line: at each update, or once "
            "with --once.",
        ),
    ] = False,
) -> None:
    """Show live what applications do and where the time of their messages goes.

    Messages and shares are of the last 10 s, P50 and P99 of the last minute, CPU since the update
    before. Keys: q ends it, s sorts by the next column, arrows scroll.
    """
    console = terminal()
    # Of a variable that asks for colours rich infers a terminal.
    is_live = not (once or as_json) and sys.stdout.isatty() and console.is_interactive
    once = not is_live and (once or not as_json)
    # One table has not to wait for longer than it must.
    interval_s = SHORTEST_S if once else interval
    updates = partial(_updates, address_of(node_address), tenant or "", interval_s)
    if is_live:
        asyncio.run(_show(updates, sort, console))
    else:
        asyncio.run(_print(updates, sort, once=once, as_json=as_json))


async def _updates(
    address: str, tenant: str, interval_s: float
) -> AsyncGenerator[ActivityUpdate, None]:
    """Yield what a node says until it ends; raises `Unavailable` then."""
    async with NodeClient(address) as client:
        watch = client.watch_activity(tenant=tenant, interval_s=interval_s)
        async with aclosing(watch) as updates:
            async for update in updates:
                yield update
    raise Unavailable(f"the node at {address} has ended", hint="plexspaces start-node")


async def _print(updates: _Updates, sort: Sort, *, once: bool, as_json: bool) -> None:
    now = Now()
    async with aclosing(updates()) as told:
        async for update in told:
            now.take(update)
            # What the processor did is known from the second update on.
            if now.looks == 1:
                continue
            if as_json:
                print_json_line(now.record(sort))
            else:
                _print_table(now, sort)
            if once:
                return


def _print_table(now: Now, sort: Sort) -> None:
    applications = now.applications(sort)
    if not applications:
        note(_EMPTY)
    if sys.stdout.isatty():
        console = terminal()
        marks = marks_of(console)
        drawn = table(applications, marks, width=console.width, cpu_known=True)
        console.print(Group(*heading(now, marks), drawn))
    else:
        for line in columns(rows(applications, cpu_known=True)):
            say(line)
    for line in troubles(applications):
        say(line)


class _Screen:
    """What is on the screen; changed by updates of the node and by keys."""

    def __init__(self, live: Live, sort: Sort, leave: Callable[[], None]) -> None:
        self._live = live
        self._sort = sort
        self._leave = leave
        self._now = Now()
        self._lost = ""
        self._first = 0
        """The first row that is seen."""

    def take(self, update: ActivityUpdate, *, anew: bool) -> None:
        """Show an update; the first one of a connection says all anew."""
        self._now = Now() if anew else self._now
        self._now.take(update)
        self._lost = ""
        self.draw()

    def lose(self, why: str) -> None:
        """Show that the node does not answer now."""
        self._lost = why
        self.draw()

    def press(self, key: str) -> None:
        """Do what a key means."""
        page = max(self._live.console.height - 8, 1)
        steps = {keys.UP: -1, keys.DOWN: 1, keys.PAGE_UP: -page, keys.PAGE_DOWN: page}
        if key in ("q", "Q"):
            self._leave()
        elif key in ("s", "S"):
            self._sort, self._first = self._sort.next, 0
        self._first += steps.get(key, 0)
        self.draw()

    def draw(self) -> None:
        """Draw all of it, as large as the terminal is now."""
        console = self._live.console
        marks = marks_of(console)
        applications = self._now.applications(self._sort)
        below = troubles(applications)[:_TROUBLES]
        if self._now.looks and not applications:
            below = [_EMPTY]
        above = heading(self._now, marks) if self._now.looks else [line_of("asking the node")]
        room = max(console.height - len(above) - len(below) - 3, 1)
        self._first = max(min(self._first, len(applications) - room), 0)
        shown = applications[self._first : self._first + room]
        cpu_known = self._now.looks > 1
        drawn = table(shown, marks, width=console.width, cpu_known=cpu_known)
        padding = [Text()] * (room - len(shown))
        notes = [line_of(line, style="yellow") for line in below]
        footer = self._footer(len(applications), room)
        whole = Group(*above, Text(), drawn, *padding, *notes, footer)
        self._live.update(whole, refresh=True)

    def _footer(self, count: int, room: int) -> Text:
        if self._lost:
            lost = f"disconnected, trying again: {printable(self._lost)}"
            return line_of(lost, style="bold red")
        end = min(self._first + room, count)
        place = f"{self._first + 1}–{end} of {count} · " if count > room else ""
        keys_told = "q quit · s sort · ↑↓ scroll"
        return line_of(f"{place}sorted by {self._sort} · {keys_told}", style="dim")


async def _show(updates: _Updates, sort: Sort, console: Console) -> None:
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        following.cancel()

    # On the other screen, so that what was there before is there after.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        screen = _Screen(live, sort, leave)
        screen.draw()
        following = asyncio.ensure_future(_follow(updates, screen))
        with keys.pressed(screen.press), _resized(screen.draw):
            try:
                await following
            except asyncio.CancelledError:
                if not has_left:
                    raise


async def _follow(updates: _Updates, screen: _Screen) -> None:
    """Show what the node says, also after it was gone; raises its error if it never answered."""
    has_answered = False
    while True:
        anew = True
        try:
            async with aclosing(updates()) as told:
                async for update in told:
                    screen.take(update, anew=anew)
                    has_answered, anew = True, False
        except (Unavailable, DeadlineExceeded) as error:
            if not has_answered:
                raise
            screen.lose(error.message)
        await asyncio.sleep(RETRY_S)


@contextmanager
def _resized(draw: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, draw)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
