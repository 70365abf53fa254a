"""What can be counted in the sources, so that no file grows into a place nobody reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(
    path
    for directory in ("src", "sdk/python")
    for path in (ROOT / directory).rglob("*.py")
    if not {"generated", "examples", "templates"} & set(path.parts)
)
MODULE_LINES = 600
FUNCTION_LINES = 80
CLASS_METHODS = 20
"""Private ones and properties counted."""
FORBIDDEN = ("util", "helper", "common", "manager", "misc")


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_can_be_read_in_one_sitting(path: Path) -> None:
    """Module, functions and classes stay within the limits, and the module says what it owns."""
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MODULE_LINES
    assert ast.get_docstring(tree), "a module says what it owns"
    assert not any(word in path.stem for word in FORBIDDEN)
    for function in _functions(tree):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < FUNCTION_LINES, function.name
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [function for function in _functions(node) if function in node.body]
            assert len(methods) <= CLASS_METHODS, node.name


def test_every_test_says_what_it_proves() -> None:
    """A test's docstring is the behaviour it stands for."""
    silent = [
        f"{path.relative_to(ROOT)}::{function.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for function in _functions(ast.parse(path.read_text()))
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []
