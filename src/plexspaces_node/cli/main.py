"""The entry point: which module has which command, and how an error ends the program.

The exit statuses are those of `status`. A command's module is loaded when it is used, so that
`plexspaces list` does not load the node.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import plexspaces_node
from plexspaces_node.cli.output import flush_quietly, print_error, print_json, say
from plexspaces_node.cli.status import (
    DONE,
    FAILED,
    IN_SHORT,
    INTERRUPTED,
    USED_WRONGLY,
    status_of,
    status_of_signal,
)
from plexspaces_node.cli.usage import in_words
from plexspaces_node.errors import ActorError, ActorTrapped, PlexSpacesError

ALIAS = "polyglot_wasm_deployment"

PANELS: dict[str, dict[str, str]] = {
    "Node": {
        "start-node": "node",
        "doctor": "doctor",
        "config": "doctor",
        "install-service": "service",
        "version": "main",
    },
    "Cluster": {
        "nodes": "nodes",
    },
    "Applications": {
        "deploy": "deploy",
        "invoke": "invoke",
        "list": "show",
        "inspect": "show",
        "logs": "show",
        "top": "top",
        "trace": "trace",
        "advise": "advise",
        "stop": "applications",
        "start": "applications",
        "undeploy": "applications",
    },
    "Build": {
        "new": "build",
        "build": "build",
        "toolchain": "toolchain",
        "image": "image",
    },
    "Access and limits": {
        "token": "token",
        "login": "login",
        "logout": "login",
        "whoami": "login",
        "tls": "tls",
        "secret": "secret",
        "quota": "quota",
        "audit": "audit",
    },
    "Backups": {
        "backup": "backup",
        "restore": "backup",
        "verify": "backup",
    },
    "VMs and measurements": {
        "vms": "vms",
        "run": "run",
        "empty-vm-typescript": "run",
    },
}
"""The headings of the help; below each its commands, and the module of this folder with each."""

HOMES: dict[str, str] = {
    name: home for commands in PANELS.values() for name, home in commands.items()
}
"""Every command and its module, in the order of the help."""

app = typer.Typer()
_HELP = frozenset({"-h", "--help"})


class _Commands(MutableMapping[str, Any]):
    """The commands by name, each created when it is first used."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module = import_module(f"plexspaces_node.cli.{HOMES[name]}")
            made: dict[str, Any] = {**typer.main.get_group(module.app).commands}
            for panel, names in PANELS.items():
                for one in names.keys() & made.keys():
                    made[one].rich_help_panel = panel
            for command in made.values():
                _join_lines(command)
            self._made |= made
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are not taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


def _join_lines(command: Any) -> None:
    """Make a paragraph of help one line, which a terminal wraps at its own width."""
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))
    for one in getattr(command, "commands", {}).values():
        _join_lines(one)


class _Root(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(HOMES)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_help = not _HELP.isdisjoint(args)
        rest = super().parse_args(ctx, args)
        # Help is always shown; everything else requires that no variable is misspelt.
        if not is_help and any(map(_is_setting, os.environ)):
            plexspaces_node.ConfigBootstrap.check_variables()
        return rest


def _is_setting(variable: str) -> bool:
    # Many set only the address, and that is no reason to load the configuration.
    return variable.startswith("PLEXSPACES_") and variable != "PLEXSPACES_NODE_ADDRESS"


def _print_version(asked: bool) -> None:
    if asked:
        say(f"plexspaces {plexspaces_node.__version__}")
        raise typer.Exit


root = typer.Typer(
    cls=_Root,
    context_settings={"help_option_names": sorted(_HELP)},
    rich_markup_mode="rich",
    epilog="Get started:  plexspaces doctor  ·  plexspaces start-node --node-id my-node\n\n"
    f"Exit status:  {IN_SHORT}",
)


@root.callback(invoke_without_command=True)
def _plexspaces(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Deploy WebAssembly applications into microVMs and measure their cost."""
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


@app.command("version", epilog="Example:  plexspaces version --json")
def _version(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": plexspaces_node.__version__})
    else:
        say(f"plexspaces {plexspaces_node.__version__}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status; never raises for anything a user can cause."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the caller, who does not want any output.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without ✓ shows a ?, and the command continues.
            stream.reconfigure(errors="replace")
    # gRPC would write a line about each handshake that fails, as for every scanner that comes by.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    called = os.path.basename(sys.argv[0])
    came: list[int] = []
    before = _end_on_signals(came)
    try:
        status = typer.main.get_command(root).main(
            args=sys.argv[1:] if argv is None else argv,
            prog_name=ALIAS if called == ALIAS else "plexspaces",
            standalone_mode=False,
        )
    except TyperException as error:
        return _used_wrongly(error)
    except (PlexSpacesError, ActorError) as error:
        return _failed(error)
    except typer.Abort:
        return FAILED
    except SystemExit as end:
        # From typer and rich: the reader has gone, or a shell asked for completions.
        if isinstance(end.__context__, BrokenPipeError):
            return status_of_signal(signal.SIGPIPE)
        return FAILED if end.code else DONE
    except OSError as error:
        # Only from our own output: errors of nodes, files and compilers are PlexSpacesErrors.
        print_error(f"{error.filename or 'cannot write'}: {error.strerror}", None)
        return FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        flush_quietly()
    if status == INTERRUPTED and came:
        return status_of_signal(came[0])
    return status if isinstance(status, int) else DONE


def _end_on_signals(came: list[int]) -> dict[signal.Signals, Any]:
    """Make SIGTERM and SIGHUP roll back like Ctrl-C; return the previous handlers.

    Each signal received is added to `came`.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def end(number: int, _: object) -> None:
        came.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A script's background job ignores Ctrl-C, and so would the event loop.
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    return {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}


def _used_wrongly(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "plexspaces"
    print_error(in_words(error), f"{command} --help")
    return USED_WRONGLY


def _failed(error: PlexSpacesError | ActorError) -> int:
    if isinstance(error, ActorError):
        what = "the actor's code trapped" if isinstance(error, ActorTrapped) else "the actor failed"
        print_error(f"{what} ({error.code}): {error.message}", error.hint)
    else:
        print_error(error.message, error.hint)
    return status_of(error)


if __name__ == "__main__":
    sys.exit(main())
