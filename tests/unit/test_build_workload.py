from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import Language
from plexspaces_node.toolchains.python.toolchain import readable
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.workload import (
    MAX_PRIMES_LIMIT,
    count_primes,
    examples,
    primes_payload,
    primes_reply,
)

ROOT = Path(__file__).parents[2]


def by_division(limit: int) -> int:
    return sum(
        1
        for number in range(2, limit + 1)
        if all(number % divisor for divisor in range(2, number) if divisor * divisor <= number)
    )


@pytest.mark.parametrize("limit", [*range(-2, 12), 25, 49, 120, 121, 122, 400])
def test_count_primes_agrees_with_the_definition(limit: int) -> None:
    """The sieve counts what trial division counts, at and around squares of primes too."""
    assert count_primes(limit) == by_division(limit)


def test_count_primes_with_known_limits_is_right() -> None:
    """The values every table of primes gives."""
    assert [count_primes(10**power) for power in range(1, 7)] == [4, 25, 168, 1229, 9592, 78498]


def test_count_primes_above_the_bound_refuses() -> None:
    """A limit whose sieve would eat the memory is refused."""
    with pytest.raises(InvalidArgument, match="above"):
        count_primes(MAX_PRIMES_LIMIT + 1)


def test_primes_message_and_reply_are_decimal_digits() -> None:
    """What is sent and what must come back are ASCII digits, the same for every language."""
    assert (primes_payload(1000), primes_reply(1000)) == (b"1000", b"168")


def test_examples_are_those_of_the_checkout() -> None:
    """Every directory of examples/ that is a project is found, with its language."""
    found = {example.name: example.language for example in examples()}

    assert found["go-primes"] is Language.GO
    assert found["python-calculator"] is Language.PYTHON


def test_shipped_in_an_installation_prefers_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories inside the package win over those of a checkout; a missing one is an error."""
    package = tmp_path / "site" / "lib" / "plexspaces_node"
    for directory in (package / "wit", tmp_path / "site" / "wit", tmp_path / "site" / "examples"):
        directory.mkdir(parents=True)
    monkeypatch.setattr("importlib.resources.files", lambda _name: package)

    assert shipped("wit") == package / "wit"
    assert shipped("examples") == tmp_path / "site" / "examples"
    with pytest.raises(NotFound, match="'sdk'"):
        shipped("sdk")


def test_wheel_holds_what_a_build_needs_and_nothing_that_one_left(tmp_path: Path) -> None:
    """Contract, SDKs and examples are packed; what compilers and npm put beside them is not."""
    tree = tmp_path / "tree"
    for name in ("src", "agent", "proto", "examples", "sdk", "wit"):
        left = shutil.ignore_patterns("node_modules", "target", "dist", "__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=left)
    for name in (".gitignore", "LICENSE", "README.md", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, tree)
    junk = (
        "examples/go-ledger/dist/junk.wasm",
        "examples/python-calculator/__pycache__/junk.pyc",
        "examples/rust-counter/target/release/junk.rlib",
        "examples/ts-greeter/node_modules/junk/junk.js",
        "sdk/rust/target/junk.rlib",
    )
    for name in junk:
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text("junk")

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=tree, check=True, capture_output=True, timeout=120)

    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert names >= {
        "plexspaces_actor/__init__.py",
        "plexspaces_node/__init__.py",
        "plexspaces_node/toolchains/locked/typescript/package-lock.json",
        "plexspaces_node/examples/go-ledger/main.go",
        "plexspaces_node/examples/rust-counter/src/lib.rs",
        "plexspaces_node/sdk/go/go.mod",
        "plexspaces_node/wit/application.wit",
    }
    assert [name for name in names if "junk" in name] == []


def test_readable_with_a_failing_import_shows_the_projects_frames_only() -> None:
    """Of the compiler's output the user's part is kept, with paths as in the project."""
    output = """\
Traceback (most recent call last):
  File "/opt/venv/bin/componentize-py", line 10, in <module>
    sys.exit(script())
             ^^^^^^^^
AssertionError: Traceback (most recent call last):
  File "/0/plexspaces_entry.py", line 1, in <module>
    import app
  File "/1/app.py", line 3, in <module>
    import part.one
  File "/1/part/one.py", line 2, in <module>
    1 / 0
    ~~^~~
ZeroDivisionError: division by zero


Caused by:
    ZeroDivisionError: division by zero
"""
    assert readable(output) == (
        "Traceback (most recent call last):\n"
        '  File "app.py", line 3, in <module>\n'
        "    import part.one\n"
        '  File "part/one.py", line 2, in <module>\n'
        "    1 / 0\n"
        "    ~~^~~\n"
        "ZeroDivisionError: division by zero"
    )


def test_readable_with_the_sdks_own_complaint_shows_its_message_only() -> None:
    """A definition the SDK refuses is one line, without the SDK's stack."""
    output = """\
AssertionError: Traceback (most recent call last):
  File "/0/plexspaces_entry.py", line 4, in <module>
    Actor = component.bind(app)
  File "/0/plexspaces/component.py", line 30, in bind
    definition = find_actor(module)
plexspaces_actor._errors.DefinitionError: /1/app.py:7: a second handler for 'add'

Caused by:
    whatever
"""
    assert readable(output) == "DefinitionError: app.py:7: a second handler for 'add'"


def test_readable_with_unknown_output_shows_all_of_it() -> None:
    """Output of another shape is passed on whole."""
    assert readable("thread 'main' panicked\nnote: x\n") == "thread 'main' panicked\nnote: x"
