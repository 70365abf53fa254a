"""The drivers the contract suite runs against, as `--drivers` names them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machines import FakeHarness, Harness, ProcessHarness


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for bundles whose path is short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="px-"))
    yield path
    left = list(path.iterdir())
    shutil.rmtree(path)
    assert left == []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the contract's cases once for each driver named by `--drivers`."""
    named = metafunc.config.getoption("--drivers").split(",")
    if "harness" in metafunc.fixturenames:
        metafunc.parametrize("harness", named, indirect=True)
    if "processes" in metafunc.fixturenames:
        real = [name for name in named if name in ("process", "bubblewrap")]
        metafunc.parametrize("processes", real, indirect=True)


@pytest.fixture
async def harness(request: pytest.FixtureRequest, root: Path) -> Harness:
    """Each driver in turn; one that does not work here fails the test."""
    if request.param == "fake":
        return FakeHarness(root)
    return await _process_harness(request.param, root)


@pytest.fixture
async def processes(request: pytest.FixtureRequest, root: Path) -> ProcessHarness:
    """The process driver, without bubblewrap and with it, as far as named."""
    return await _process_harness(request.param, root)


async def _process_harness(name: str, root: Path) -> ProcessHarness:
    harness = ProcessHarness(root, "bwrap" if name == "bubblewrap" else None)
    health = await harness.driver.probe()
    works = health.ok and harness.wrapped == ("bubblewrap" in harness.driver.capabilities.isolation)
    assert works, f"--drivers names {name}, but: {health.reason} (hint: {health.hint})"
    return harness
