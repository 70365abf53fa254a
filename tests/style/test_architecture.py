"""ARCHITECTURE.md and the import contracts name the folders that there are, in one order."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "plexspaces_node"
TABLES = {"plexspaces_node": "## Where things are", "plexspaces_node.node": "Inside `node/`"}
_NAME = re.compile(r"`([a-z_]+)(?:/|\.py)`")


def modules(directory: Path) -> set[str]:
    """The modules and packages of a package, by name."""
    packages = {init.parent.name for init in directory.glob("*/__init__.py")}
    return packages | {path.stem for path in directory.glob("*.py")} - {"__init__"}


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the names in the first column of each row of the table after a heading."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition(heading)[2]
    table = text[text.index("|---") :].partition("\n\n")[0]
    for row in table.splitlines()[1:]:
        if names := _NAME.findall(row.split("|")[1]):
            yield names


def layers(package: str) -> list[set[str]]:
    """The layers that the contract of a package has, from top to bottom."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in told["contracts"] if one.get("containers") == [package])
    return [set(re.findall(r"[a-z_]+", layer)) for layer in contract["layers"]]


@pytest.mark.parametrize("package", TABLES)
def test_table_when_compared_with_the_tree_then_each_folder_is_in_it(package: str) -> None:
    """A newcomer finds every folder in the table, and every folder of the table in the tree."""
    told = [name for row in rows(TABLES[package]) for name in row]
    directory = PACKAGE.joinpath(*package.split(".")[1:])
    assert sorted(told) == sorted(modules(directory))


@pytest.mark.parametrize("package", TABLES)
def test_table_when_compared_with_the_contract_then_in_its_order(package: str) -> None:
    """What stands higher may import what stands lower."""
    depth = {name: at for at, layer in enumerate(layers(package)) for name in layer}
    told = [depth[name] for row in rows(TABLES[package]) for name in row if name in depth]
    assert told == sorted(told)
    directory = PACKAGE.joinpath(*package.split(".")[1:])
    assert set(depth) == modules(directory)


def test_which_file_to_change_when_read_then_each_file_is_there() -> None:
    """A path in the table leads somewhere; a bare name is beside the path before it."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Which file to change")[2]
    table = text[text.index("|---") :].partition("\n\n")[0]
    for row in table.splitlines()[1:]:
        folder = PACKAGE
        # In parentheses is what to look for in a file.
        files = re.sub(r"\(.*?\)", "", row.split("|")[2])
        for path in re.findall(r"`([^`]+)`", files):
            path = path.replace("LANGUAGE", "go").replace("LEVEL", "qemu")
            found = [base / path for base in (PACKAGE, ROOT, folder) if (base / path).exists()]
            assert found, f"{path} is not there"
            folder = found[0].parent


def test_state_of_an_application_when_changed_then_by_the_table_alone() -> None:
    """It is assigned where it begins, and in `move`, which looks into the table."""
    places = []
    for path in sorted((PACKAGE / "node" / "applications").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                places += [
                    (path.name, function.name)
                    for node in ast.walk(function)
                    if isinstance(node, ast.Attribute)
                    and node.attr == "state"
                    and isinstance(node.ctx, ast.Store)
                ]
    assert places == [("supervisor.py", "__init__"), ("supervisor.py", "move")]
