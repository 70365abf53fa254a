"""Options every test directory shares."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from plexspaces_node.model import Language

# How long an example takes says nothing on a busy machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

KNOWN_DRIVERS = (
    *("fake", "process", "qemu-fake", "qemu"),
    *("firecracker-fake", "firecracker", "firecracker-jailed"),
)
KNOWN_LEVELS = ("process", "qemu", "firecracker")
KNOWN_CLIENTS = ("curl", "chromium", "prometheus")
KNOWN_LANGUAGES = tuple(language.value for language in Language if language != Language.UNKNOWN)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options that name what tests run against."""
    parser.addoption(
        "--drivers",
        default="fake,process",
        help="drivers the contract suite runs against, each of which must work here: "
        f"{', '.join(KNOWN_DRIVERS)} (default: %(default)s)",
    )
    parser.addoption(
        "--firecracker-api",
        metavar="PATH",
        help="the makers' description of Firecracker's API (firecracker.yaml) to check against",
    )
    parser.addoption(
        "--levels",
        default="process",
        help="isolation levels the conformance suite of the languages runs on, each of which must "
        f"work here: {', '.join(KNOWN_LEVELS)} (default: %(default)s)",
    )
    parser.addoption(
        "--languages",
        default="",
        help="languages the conformance suite runs against, each of which must be buildable here: "
        f"{', '.join(KNOWN_LANGUAGES)} (default: those whose compiler is installed)",
    )
    parser.addoption(
        "--clients",
        default="",
        help="programs that the tests of HTTP and of metrics use, each of which must be installed: "
        f"{', '.join(KNOWN_CLIENTS)} (default: those that are)",
    )
    parser.addoption(
        "--cluster",
        action="store_true",
        help="the tests of several nodes must run: without it they are left out where there can be "
        "no network namespaces",
    )
    parser.addoption(
        "--cluster-seed",
        type=int,
        help="what the faults of test_faults.py follow from (default: another each time, printed)",
    )
    parser.addoption(
        "--cluster-seconds",
        type=float,
        default=45.0,
        help="for how long test_faults.py makes faults (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a driver, level, language or program nobody knows before any test runs."""
    for option, known in (
        ("--drivers", KNOWN_DRIVERS),
        ("--levels", KNOWN_LEVELS),
        ("--languages", KNOWN_LANGUAGES),
        ("--clients", KNOWN_CLIENTS),
    ):
        unknown = set(filter(None, config.getoption(option).split(","))) - set(known)
        if unknown:
            raise pytest.UsageError(
                f"{option}: unknown {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's, whoever runs the tests how often.

    Pytest's own has the user's name in it, the number of the run and that of the process.
    """
    path = Path(tempfile.mkdtemp(prefix="px-")).resolve()
    yield path
    shutil.rmtree(path, ignore_errors=True)
