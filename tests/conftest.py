"""Options every test directory shares."""

from __future__ import annotations

import pytest

KNOWN_DRIVERS = ("fake", "process", "bubblewrap")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--drivers`: what the contract suite runs against."""
    parser.addoption(
        "--drivers",
        default="fake,process",
        help="drivers the contract suite runs against, each of which must work here: "
        f"{', '.join(KNOWN_DRIVERS)} (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a driver nobody knows before any test runs."""
    unknown = set(config.getoption("--drivers").split(",")) - set(KNOWN_DRIVERS)
    if unknown:
        raise pytest.UsageError(
            f"--drivers: unknown {', '.join(sorted(unknown))}; there are {', '.join(KNOWN_DRIVERS)}"
        )
