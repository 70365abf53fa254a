"""The conformance actors of tests/actors/conformance, one a language, built from source."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from support.actors import ACTORS

from plexspaces_node import NodeClient
from plexspaces_node.build import BuildResult, build
from plexspaces_node.model import MIB, Language

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


def compiled_by(address: str, cache: Path, wasm: Path) -> Path:
    """Have a node compile an artifact, by a deploy that is undone, and return the native code."""

    async def deploy() -> None:
        async with NodeClient(address) as client:
            await client.deploy("conformance", wasm)
            await client.undeploy("conformance")

    before = set(cache.glob("*.cwasm"))
    asyncio.run(deploy())
    [code] = set(cache.glob("*.cwasm")) - before
    return code
