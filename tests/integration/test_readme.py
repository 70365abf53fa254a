"""What README and docs show is what a reader gets: the program runs, the commands exist."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from plexspaces_actor import testing
from support.traces import assert_nothing_left

from plexspaces_node.cli.main import root
from plexspaces_node.toolchains import build
from plexspaces_node.toolchains.workload import examples

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    # But for the reference, which is written from the commands themselves.
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "cli.md"),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "src/plexspaces_node/toolchains/templates").glob("*/README.md")),
]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        yield Path(directory)


def test_program_of_the_client_page_runs_as_it_is(scratch: Path) -> None:
    """The Python example prints a reply, its compute time and the machine, and leaves nothing."""
    page = (ROOT / "docs" / "python-client.md").read_text()
    program, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    calculator = next(e.path for e in examples() if e.name == "python-calculator")
    wasm = scratch / "calculator.wasm"
    asyncio.run(build(calculator, wasm, progress=lambda _line: None))
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_")}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=scratch,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    reply, machine = done.stdout.splitlines()
    assert re.fullmatch(r'\{"result":42\.0\} after \d+ ns of compute', reply)
    assert re.fullmatch(r"vm-[0-9a-f]+ Running process", machine)
    assert_nothing_left(scratch / "example-data")


def commands(page: Path) -> list[list[str]]:
    """Return the `plexspaces` commands of a page's console blocks, as lists of words."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "plexspaces"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_exist_with_their_flags(page: Path) -> None:
    """Every command and flag that a page shows is one the program takes."""
    known = typer.main.get_group(root).commands
    for name, *words in commands(page):
        assert name in known, name
        command = known[name]
        if subcommands := getattr(command, "commands", None):
            command = subcommands[words[0]]
        taken = {flag for parameter in command.params for flag in parameter.opts}
        # What follows two dashes is for the application.
        own = words[: words.index("--")] if "--" in words else words
        for word in own:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in {*taken, "--help"}, (name, word)


def test_python_page_shows_code_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of docs/sdk-python.md, in their order, are a program and its passing test."""
    page = (ROOT / "docs" / "sdk-python.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    # What a sample puts in the place of a module goes with this test.
    for name in ("bz2", "ctypes"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    module.__dict__.update(count=3, name="Ada")

    with testing.memory({"calculator": lambda _type, _payload: b'{"result":3}'}) as host:
        host.web["https://api.example.com/rates"] = (200, b"{}")
        for block in blocks:
            if not block.startswith("raise"):
                exec(block, module.__dict__)

    assert module.__dict__["price"] == 120
    assert module.__dict__["total"] == {"result": 3}
    assert host.told == [("audit", "sold", b'{"price":120}')]
    module.__dict__["test_it_remembers"]()


def test_index_when_compared_with_the_pages_then_each_is_in_it() -> None:
    """No page is written that nobody is led to, and no link leads nowhere."""
    docs = ROOT / "docs"
    linked = re.findall(r"\]\(([a-z-]+\.md)\)", (docs / "index.md").read_text())
    assert sorted(linked) == sorted(page.name for page in docs.glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_when_followed_then_there_is_a_page(page: Path) -> None:
    """A link between pages leads to a file of the repository."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" in link or (page.parent / link).exists(), link
