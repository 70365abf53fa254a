"""What the contract suites run against, as `--drivers` and `--languages` name it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.firecracker import FakeFirecrackerHarness, FirecrackerHarness
from support.languages import CONFORMANCE, Built, built_from, compiled_by, projects
from support.machines import FakeHarness, Harness, ProcessHarness, QemuHarness
from support.nodes import node_process
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.errors import Unsupported


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for bundles whose path is short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="px-"))
    yield path
    left = list(path.iterdir())
    shutil.rmtree(path)
    assert left == []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a contract's cases once for each driver or language there is."""
    named = metafunc.config.getoption("--drivers").split(",")
    if "harness" in metafunc.fixturenames:
        metafunc.parametrize("harness", named, indirect=True)
    if "processes" in metafunc.fixturenames:
        real = [name for name in named if name in ("process", "bubblewrap")]
        metafunc.parametrize("processes", real, indirect=True)
    if "language" in metafunc.fixturenames:
        languages = metafunc.config.getoption("--languages")
        chosen = languages.split(",") if languages else projects()
        metafunc.parametrize("language", chosen, indirect=True, scope="session")


@pytest.fixture
async def harness(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Harness:
    """Each driver in turn; one that does not work here fails the test."""
    if request.param == "fake":
        return FakeHarness(root)
    if request.param == "qemu":
        return await _qemu_harness(root)
    if request.param == "firecracker-fake":
        return FakeFirecrackerHarness(root, tmp_path)
    if request.param in ("firecracker", "firecracker-jailed"):
        return await _firecracker_harness(request.param, root)
    return await _process_harness(request.param, root)


@pytest.fixture
async def processes(request: pytest.FixtureRequest, root: Path) -> ProcessHarness:
    """The process driver, without bubblewrap and with it, as far as named."""
    return await _process_harness(request.param, root)


async def _qemu_harness(root: Path) -> QemuHarness:
    harness, health = await QemuHarness.probed(root)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    return harness


async def _firecracker_harness(name: str, root: Path) -> FirecrackerHarness:
    harness, health = await FirecrackerHarness.probed(root, jailed=name.endswith("jailed"))
    assert health.ok, f"--drivers names {name}, but: {health.reason} (hint: {health.hint})"
    return harness


async def _process_harness(name: str, root: Path) -> ProcessHarness:
    harness = ProcessHarness(root, "bwrap" if name == "bubblewrap" else None)
    health = await harness.driver.probe()
    works = health.ok and harness.wrapped == ("bubblewrap" in harness.driver.capabilities.isolation)
    assert works, f"--drivers names {name}, but: {health.reason} (hint: {health.hint})"
    return harness


@pytest.fixture(scope="session")
def language(request: pytest.FixtureRequest) -> str:
    """Each language in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def languages_node() -> Iterator[tuple[str, Path]]:
    """A node in a process of its own, for all languages: its address and data directory."""
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        data = Path(directory, "data")
        with node_process(data) as (process, address):
            yield address, data
            process.communicate(timeout=30)
        assert_nothing_left(data)


@pytest.fixture(scope="session")
def built(
    language: str,
    languages_node: tuple[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Built:
    """The language's conformance actor, built from source and compiled.

    Skips where the compiler is missing, unless `--languages` says that it must be there.
    """
    address, data = languages_node
    if not (CONFORMANCE / language).is_dir():
        pytest.fail(f"--languages names {language}, but it has no conformance actor")
    try:
        output = tmp_path_factory.mktemp("built") / f"{language}.wasm"
        result = built_from(CONFORMANCE / language, output)
    except Unsupported as missing:
        why = f"{missing.message} (hint: {missing.hint})"
        if request.config.getoption("--languages"):
            pytest.fail(f"--languages names {language}, but: {why}")
        pytest.skip(why)
    return Built(result, compiled_by(address, data / "cache", result.path))


@pytest.fixture
async def client(languages_node: tuple[str, Path]) -> AsyncIterator[NodeClient]:
    """A client of the node for all languages."""
    address, _ = languages_node
    async with NodeClient(address) as client:
        yield client
