"""What the engine asks of a language: the contract `Toolchain`, and how its compiler is found."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plexspaces_node.errors import Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.project import Source

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

    @property
    def placed(self) -> str:
        """The compiler in words, and where it is."""
        return f"{self.named} at {self.program}"


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
    def install(self) -> str:
        """The command that installs the compiler."""

    def kind_of(self, project: Path) -> ArtifactKind:
        """Return what the project becomes. Blocks."""

    async def describe(self, environment: BuildEnvironment) -> str:
        """Return in one line what a build would use: versions and places.

        Looks as `ready` does, installs and makes nothing. Raises `Unsupported` with the command
        that installs what is missing for an actor, and what `process.run` raises.
        """

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> Compiler:
        """Return the compiler for a project, with all it needs made ready.

        Raises `Unsupported` with the command that installs what is missing, and
        `InvalidArgument` when the project leaves no compiler a choice.
        """

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


class CompilerProgram(Protocol):
    """A compiler that is one program, which is taken where it is first found."""

    @property
    def language(self) -> Language:
        """The language it compiles."""

    @property
    def program(self) -> str:
        """File name of the compiler."""

    @property
    def install(self) -> str:
        """The command that installs it."""

    @property
    def version_arguments(self) -> tuple[str, ...]:
        """What makes it print its version."""

    def parse_version(self, output: str) -> str:
        """Return the version from what it printed; raises `Unsupported` for a bad one."""

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        """Return the environment in which it runs; see `Toolchain`."""


async def find_compiler(sought: CompilerProgram, environment: BuildEnvironment) -> Compiler:
    """Return the compiler; raises `Unsupported` with the command that installs it."""
    for directory in environment.search:
        program = directory / sought.program
        if program.is_file() and os.access(program, os.X_OK):
            break
    else:
        raise Unsupported(
            f"building {sought.language} needs {sought.program}, which is not installed",
            hint=sought.install,
        )
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
        finished = await run(
            [str(program), *sought.version_arguments],
            cwd=Path(scratch),
            variables=sought.variables(environment, Path(scratch)),
            timeout_s=VERSION_TIMEOUT_S,
        )
    if finished.status:
        raise Unsupported(
            f"{program} does not work: {finished.output.strip() or f'status {finished.status}'}",
            hint=sought.install,
        )
    return Compiler(program, sought.parse_version(finished.output.strip()))
