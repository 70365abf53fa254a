"""What the engine asks of a language: the contract `Toolchain`, and how its compiler is found."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plexspaces_node.build.environment import BuildEnvironment
from plexspaces_node.build.process import run
from plexspaces_node.build.project import Source
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import ArtifactKind, Language

VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that is there: its program and the version it names."""

    program: Path
    version: str

    @property
    def named(self) -> str:
        """The compiler in words: its name and version."""
        return f"{self.program.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Compilation:
    """One run of a compiler.

    Attributes:
        project: directory of the project; not to be written to.
        sources: its files.
        scratch: a directory of its own that is removed afterwards.
        output: file to write.
        variables: the environment of the compiler.
    """

    compiler: Compiler
    project: Path
    sources: list[Source]
    scratch: Path
    output: Path
    variables: Mapping[str, str]
    timeout_s: float


class Toolchain(Protocol):
    """How one language becomes an artifact."""

    @property
    def language(self) -> Language:
        """The language it compiles."""

    @property
    def kind(self) -> ArtifactKind:
        """What it makes."""

    @property
    def program(self) -> str:
        """File name of the compiler."""

    @property
    def install(self) -> str:
        """The command that installs the compiler."""

    @property
    def version_arguments(self) -> tuple[str, ...]:
        """What makes the compiler print its version."""

    def parse_version(self, output: str) -> str:
        """Return the version from what the compiler printed; raises `Unsupported` for a bad one."""

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        """Return the environment in which the compiler runs. May make directories in `scratch`."""

    def ingredients(self) -> list[str]:
        """Return what besides the sources and the compiler decides the result. Blocks."""

    def directories(self, project: Path) -> list[Path]:
        """Return the directories outside the project whose files are compiled too. Blocks."""

    async def compile(self, compilation: Compilation) -> None:
        """Write the artifact.

        Raises `InvalidArgument` with the compiler's own words when the project does not compile,
        and what `process.run` raises.
        """


async def find_compiler(toolchain: Toolchain, environment: BuildEnvironment) -> Compiler:
    """Return the compiler; raises `Unsupported` with the command that installs it."""
    for directory in environment.search:
        program = directory / toolchain.program
        if program.is_file() and os.access(program, os.X_OK):
            break
    else:
        raise Unsupported(
            f"building {toolchain.language} needs {toolchain.program}, which is not installed",
            hint=toolchain.install,
        )
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
        finished = await run(
            [str(program), *toolchain.version_arguments],
            cwd=Path(scratch),
            variables=toolchain.variables(environment, Path(scratch)),
            timeout_s=VERSION_TIMEOUT_S,
        )
    if finished.status:
        raise Unsupported(
            f"{program} does not work: {finished.output.strip() or f'status {finished.status}'}",
            hint=toolchain.install,
        )
    return Compiler(program, toolchain.parse_version(finished.output.strip()))
