"""What the contract suites run against, as `--drivers`, `--levels` and `--languages` name it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.firecracker import FakeFirecrackerHarness, FirecrackerHarness
from support.languages import CONFORMANCE, Applications, Built, built_from, load, projects
from support.levels import MachinePeer, Machines, Place, open_place
from support.machines import FakeHarness, Harness, ProcessHarness, QemuHarness
from support.qemu import FakeQemuHarness

from plexspaces_node import NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.toolchains import BuildResult


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
        real = [name for name in named if name == "process"]
        metafunc.parametrize("processes", real, indirect=True)
    if "level" in metafunc.fixturenames:
        levels = metafunc.config.getoption("--levels").split(",")
        metafunc.parametrize("level", levels, indirect=True, scope="session")
    if "language" in metafunc.fixturenames:
        languages = metafunc.config.getoption("--languages")
        chosen = languages.split(",") if languages else projects()
        metafunc.parametrize("language", chosen, indirect=True, scope="session")


@pytest.fixture
async def harness(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Harness:
    """Each driver in turn; one that does not work here fails the test."""
    if request.param == "fake":
        return FakeHarness(root)
    if request.param == "qemu-fake":
        return FakeQemuHarness(root, tmp_path)
    if request.param == "qemu":
        return await _qemu_harness(root)
    if request.param == "firecracker-fake":
        return FakeFirecrackerHarness(root, tmp_path)
    if request.param in ("firecracker", "firecracker-jailed"):
        return await _firecracker_harness(request.param, root)
    return ProcessHarness(root)


@pytest.fixture
def processes(request: pytest.FixtureRequest, root: Path) -> ProcessHarness:
    """The process driver, if it is named."""
    del request
    return ProcessHarness(root)


async def _qemu_harness(root: Path) -> QemuHarness:
    harness, health = await QemuHarness.probed(root)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    return harness


async def _firecracker_harness(name: str, root: Path) -> FirecrackerHarness:
    harness, health = await FirecrackerHarness.probed(root, jailed=name.endswith("jailed"))
    assert health.ok, f"--drivers names {name}, but: {health.reason} (hint: {health.hint})"
    return harness


@pytest.fixture(scope="session")
def language(request: pytest.FixtureRequest) -> str:
    """Each language in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def level(request: pytest.FixtureRequest) -> str:
    """Each isolation level in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def places() -> Iterator[Callable[[str], Place]]:
    """Opens each level once, when it is first asked for, and all stay open until the end.

    The tests of a level do not come one after the other, since pytest goes by language too.
    """
    with ExitStack() as stack:
        opened: dict[str, Place] = {}

        def place(level: str) -> Place:
            if level not in opened:
                opened[level] = stack.enter_context(open_place(level))
            return opened[level]

        yield place


@pytest.fixture(scope="session")
def place(level: str, places: Callable[[str], Place]) -> Place:
    """The machines and the node of the level."""
    return places(level)


@pytest.fixture(scope="session")
def machines(place: Place) -> Machines:
    """Empty machines of the level, for the cases at a bare link."""
    return place.machines


@pytest.fixture(scope="session")
def artifact(
    language: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> BuildResult:
    """The language's conformance actor, built from source.

    Skips where the compiler is missing, unless `--languages` says that it must be there.
    """
    if not (CONFORMANCE / language).is_dir():
        pytest.fail(f"--languages names {language}, but it has no conformance actor")
    try:
        output = tmp_path_factory.mktemp("built") / f"{language}.wasm"
        return built_from(CONFORMANCE / language, output)
    except Unsupported as missing:
        why = f"{missing.message} (hint: {missing.hint})"
        if request.config.getoption("--languages"):
            pytest.fail(f"--languages names {language}, but: {why}")
        pytest.skip(why)


@pytest.fixture(scope="session")
def applications(artifact: BuildResult, place: Place) -> Iterator[Applications]:
    """The language's actor on the node, under the names the cases use."""
    with Applications(place.address, place.data / "cache", artifact.path) as applications:
        yield applications


@pytest.fixture(scope="session")
def built(artifact: BuildResult, applications: Applications) -> Built:
    """The language's conformance actor, built from source and compiled."""
    return Built(artifact, applications.code)


@pytest.fixture(scope="session")
def shared_peer(machines: Machines, built: Built) -> Iterator[Callable[[], MachinePeer]]:
    """Gives the machine whose actor all cases use that need no new one; another if it is dead."""
    with ExitStack() as stack:
        living: list[MachinePeer] = []

        def peer() -> MachinePeer:
            if not (living and living[-1].alive()):
                living.append(stack.enter_context(machines.take()))
                load(living[-1], built)
            living[-1].forget()
            return living[-1]

        yield peer


@pytest.fixture
async def client(place: Place) -> AsyncIterator[NodeClient]:
    """A client of the level's node."""
    async with NodeClient(place.address) as client:
        yield client
