"""What a build needs from a language: the contract `Toolchain`, and how its compiler is found."""

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
    """An available compiler: its program and its version."""

    program: Path
    version: str

    @property
    def named(self) -> str:
        """Describe the compiler: its name and version."""
        return f"{self.program.name} {self.version}"

    @property
    def placed(self) -> str:
        """Describe the compiler, and where it is."""
        return f"{self.named} at {self.program}"


@dataclass(frozen=True, slots=True)
class Compilation:
    """One run of a compiler.

    Attributes:
        project: directory of the project; must not be written to.
        sources: its files.
        scratch: a temporary directory of its own.
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
    """Compiles one language to artifacts."""

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

        Looks as `ready` does, but installs and creates nothing. Raises `Unsupported` with the
        command that installs what an actor needs, and what `process.run` raises.
        """

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> Compiler:
        """Return the compiler for a project, with everything it needs prepared.

        Raises `Unsupported` with the command that installs what is missing, and `InvalidArgument`
        if the project allows no compiler.
        """

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        """Return the compiler's environment. May create directories in `scratch`."""

    def ingredients(self) -> list[str]:
        """Return what affects the result besides the sources and the compiler. Blocks."""

    def directories(self, project: Path) -> list[Path]:
        """Return the directories outside the project whose files are compiled too. Blocks."""

    async def compile(self, compilation: Compilation) -> None:
        """Write the artifact.

        Raises `InvalidArgument` with the compiler's own message if the project does not compile,
        and what `process.run` raises.
        """


class CompilerProgram(Protocol):
    """A compiler that is a single program, used where it is first found."""

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
        """The arguments that print its version."""

    def parse_version(self, output: str) -> str:
        """Return the version from its output; raises `Unsupported` for a bad one."""

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        """Return its environment; see `Toolchain`."""


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
