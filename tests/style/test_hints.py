"""A hint is a command to copy: the command exists, and paths in it are quoted for a shell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from plexspaces_node.cli.main import root

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / "src" / "plexspaces_node"
COMMANDS: dict[str, Any] = dict(typer.main.get_group(root).commands)
# A command in a hint, an example or a sentence, such as `plexspaces vms console NAME`.
_COMMAND = re.compile(r"(?<![\w./-])plexspaces (?!plexspaces)([a-z][a-z-]*)(?: ([a-z]+)\b)?")
# What a path is called in this code, alone or as an attribute.
_PATHS = re.compile(
    r"(^|[._])(path|parent|project|directory|target|output|wasm|file|place|root|data_dir|home)$"
)


def hints(tree: ast.AST) -> Iterator[ast.JoinedStr]:
    """Every text with places to fill that becomes a hint: an argument, a variable, a result."""
    for node in ast.walk(tree):
        told: list[ast.expr] = []
        if isinstance(node, ast.keyword) and node.arg == "hint":
            told = [node.value]
        elif isinstance(node, ast.Assign):
            names = [one.id.lower() for one in node.targets if isinstance(one, ast.Name)]
            told = [node.value] if any("hint" in name for name in names) else []
        elif isinstance(node, ast.FunctionDef) and "hint" in node.name:
            returns = (one for one in ast.walk(node) if isinstance(one, ast.Return))
            told = [one.value for one in returns if one.value]
        for one in told:
            yield from _bare_texts(one)


def _bare_texts(node: ast.AST) -> Iterator[ast.JoinedStr]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "quoted":
        return
    if isinstance(node, ast.JoinedStr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _bare_texts(child)


def bare_paths(source: str) -> list[str]:
    """The paths that hints of a module hold as they are."""
    filled = (
        ast.unparse(part.value)
        for hint in hints(ast.parse(source))
        for part in hint.values
        if isinstance(part, ast.FormattedValue)
    )
    # A path that is joined from parts ends with the last of them.
    return [one for one in filled if _PATHS.search(one.partition(" / ")[0])]


def test_hints_when_they_name_a_path_then_it_is_quoted() -> None:
    """A directory whose name has a space is one word of the command."""
    found = {
        str(path.relative_to(ROOT)): bare
        for path in ROOT.rglob("*.py")
        if not {"generated", "templates"} & set(path.parts)
        and (bare := bare_paths(path.read_text()))
    }
    assert found == {}


def test_bare_paths_when_there_are_some_then_they_are_found() -> None:
    """The search above finds what it is for."""
    assert bare_paths('raise E("x", hint=f"mkdir {target.parent}")') == ["target.parent"]
    assert bare_paths("hint = f\"-o {output / 'NAME.wasm'}\"") == ["output / 'NAME.wasm'"]
    assert bare_paths('raise E("x", hint=f"mkdir {quoted(target.parent)}")') == []


def unknown_commands(text: str) -> list[str]:
    """The commands of `plexspaces` in a text that do not exist."""
    return [one[0] for one in _COMMAND.finditer(text) if not _exists(one[1], one[2])]


def _exists(name: str, subcommand: str | None) -> bool:
    if name not in COMMANDS:
        return False
    inner = getattr(COMMANDS[name], "commands", None)
    return inner is None or subcommand is None or subcommand in inner


def test_texts_when_they_name_a_command_then_it_exists() -> None:
    """In the sources of the node and of the native programs."""
    sources = [*ROOT.rglob("*.py"), *(PROJECT / "agent").rglob("*.rs")]
    found = {
        str(path.relative_to(PROJECT)): unknown
        for path in sources
        if "generated" not in path.parts and (unknown := unknown_commands(path.read_text()))
    }
    assert found == {}


def test_unknown_commands_when_there_are_some_then_they_are_found() -> None:
    """The search above finds what it is for."""
    assert unknown_commands("see: plexspaces vm console NAME") == ["plexspaces vm console"]
    assert unknown_commands("plexspaces image fetch, plexspaces logs x") == [
        "plexspaces image fetch"
    ]
    assert unknown_commands("plexspaces vms console NAME; plexspaces build makes one") == []
