"""The conformance actors of tests/actors/conformance, one a language, built from source."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.actors import ACTORS
from support.peer import SECOND_NS, NodeEnd

from plexspaces_node import NodeClient
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB, Language
from plexspaces_node.toolchains import BuildResult, build

CONFORMANCE = ACTORS / "conformance"
MEMORY_BYTES = 128 * MIB
"""What each actor may take; the largest, Python, begins with about 20 MiB."""


@dataclass(frozen=True)
class Expected:
    """In what a language may differ from the others.

    Attributes:
        thrown: code of the failure that a panic, throw or exception becomes.
        survives: whether the instance, and so its state, lives on after it.
    """

    thrown: str = "exception"
    survives: bool = True


EXPECTED: dict[str, Expected] = {
    # Standard Rust for WebAssembly aborts on a panic: nothing can be caught.
    Language.RUST: Expected(thrown="unreachable", survives=False),
}


@dataclass(frozen=True)
class Built:
    """A language's conformance actor.

    Attributes:
        code: what the node's compiler made of it.
    """

    result: BuildResult
    code: Path

    @property
    def wasm(self) -> Path:
        """The artifact."""
        return self.result.path

    @property
    def expected(self) -> Expected:
        """What is particular to its language."""
        return EXPECTED.get(self.result.language, Expected())


def projects() -> list[str]:
    """Return the languages that have a conformance actor."""
    return sorted(path.name for path in CONFORMANCE.iterdir() if path.is_dir())


def built_from(project: Path, output: Path) -> BuildResult:
    """Build a project, from the cache of builds where nothing changed."""
    return asyncio.run(build(project, output, progress=lambda _line: None))


def load(peer: NodeEnd, built: Built, state: bytes = b"") -> None:
    """Load the actor into an empty machine, or fail with what it said."""
    loaded = peer.load(
        built.code,
        state=state,
        memory_bytes=MEMORY_BYTES,
        timeout_ns=int(peer.seconds(15) * SECOND_NS),
    )
    assert isinstance(loaded, link.Loaded), loaded


class Applications:
    """A conformance actor on a node, deployed under `NAMES` for as long as this context lasts.

    Attributes:
        code: what the node's compiler made of the artifact.
    """

    NAMES = ("one", "two", "three", "stopped")

    def __init__(self, address: str, cache: Path, wasm: Path) -> None:
        self._address = address
        self._wasm = wasm
        self._cache = cache

    def __enter__(self) -> Self:
        before = set(self._cache.glob("*.cwasm"))
        asyncio.run(self._deploy())
        [self.code] = set(self._cache.glob("*.cwasm")) - before
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run(self._undeploy())

    async def _deploy(self) -> None:
        async with NodeClient(self._address) as client:
            # The first has it compiled, and the others need not wait for each other.
            first, *others = self.NAMES
            await client.deploy(first, self._wasm)
            await asyncio.gather(*(client.deploy(name, self._wasm) for name in others))
            await client.stop("stopped")

    async def _undeploy(self) -> None:
        async with NodeClient(self._address) as client:
            await asyncio.gather(*(client.undeploy(name) for name in self.NAMES))
