"""Go projects that are actors: how they are told from commands, and what the toolchain asks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.actors import ACTORS

from plexspaces_node.errors import InvalidArgument, PlexSpacesError, Unsupported
from plexspaces_node.model import ArtifactKind
from plexspaces_node.toolchains.go.toolchain import GoToolchain
from plexspaces_node.toolchains.toolchain import Compilation, Compiler
from plexspaces_node.toolchains.wasm.assembly import assemble

REQUIRES = "module example.com/mine\n\nrequire plexspaces v0.1.0\n"
REPLACES = REQUIRES + "\nreplace plexspaces => ./plexspaces\n"
COMPONENT = b"\0asm\x0d\0\x01\0"
OUTPUT = "while [ $# -gt 0 ]; do case $1 in -o) out=$2;; esac; shift; done"


class Project:
    """A Go project, and a scripted compiler for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "mine"
        self.scratch = directory / "scratch"
        self.argv = directory / "argv"
        self._program = directory / "go"
        self.directory.mkdir()
        self.scratch.mkdir()
        (self.directory / "plexspaces").mkdir()

    def write(self, go_mod: str) -> None:
        """Write go.mod."""
        (self.directory / "go.mod").write_text(go_mod)

    def compiler(self, script: str) -> None:
        """Write what the compiler does; `$out` is its output."""
        self._program.write_text(f'#!/bin/sh\necho "$@" >{self.argv}\n{OUTPUT}\n{script}\n')
        self._program.chmod(0o755)

    async def compile(self, version: str = "1.26.6") -> bytes:
        """Compile and return the artifact."""
        output = self.scratch / "output.wasm"
        await GoToolchain().compile(
            Compilation(
                compiler=Compiler(self._program, version),
                project=self.directory,
                sources=[],
                scratch=self.scratch,
                output=output,
                variables={"PATH": os.defpath},
                timeout_s=20,
            )
        )
        return output.read_bytes()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    module = tmp_path / "module.wasm"
    module.write_bytes(assemble((ACTORS / "preview1.wat").read_text()))
    project = Project(tmp_path)
    project.write(REPLACES)
    project.compiler(f'cp {module} "$out"')
    return project


@pytest.mark.parametrize(
    ("go_mod", "kind"),
    [
        ("module mine\n", ArtifactKind.COMMAND),
        ("module mine\n// require plexspaces v0.1.0\n", ArtifactKind.COMMAND),
        ("module mine\nrequire example.com/plexspaces v1.0.0\n", ArtifactKind.COMMAND),
        ("module mine\nreplace plexspaces => ./plexspaces\n", ArtifactKind.COMMAND),
        (REQUIRES, ArtifactKind.ACTOR),
        ("module mine\nrequire (\n\tplexspaces v0.1.0 // the SDK\n)\n", ArtifactKind.ACTOR),
    ],
)
def test_kind_of_a_project_is_what_its_go_mod_requires(
    project: Project, go_mod: str, kind: ArtifactKind
) -> None:
    """A project that requires the SDK is an actor, any other a command."""
    project.write(go_mod)

    assert GoToolchain().kind_of(project.directory) is kind


async def test_compile_of_an_actor_makes_a_component_that_names_go(project: Project) -> None:
    """The compiler makes a library, and a component is made of it that says how it came about."""
    artifact = await project.compile()

    assert artifact.startswith(COMPONENT)
    assert b"\x08language\x01\x02Go\x061.26.6" in artifact
    assert b"plexspaces:application/actor@0.1.0" in artifact
    assert "-buildmode=c-shared" in project.argv.read_text()
    assert str(project.scratch / "output.wasm") not in project.argv.read_text()


@pytest.mark.parametrize(
    ("listed", "sdk", "vendored", "added"),
    [
        ("yes", "outgoing", None, True),
        ("", "outgoing", None, False),
        ("yes", "", None, False),
        ("yes", "outgoing", "plexspaces/actor", False),
        ("yes", "outgoing", "plexspaces/outgoing", True),
    ],
)
async def test_compile_of_an_actor_with_net_http_adds_the_nodes(
    project: Project, listed: str, sdk: str, vendored: str | None, added: bool
) -> None:
    """The package that net/http needs is added where net/http is, and where the package is."""
    (project.directory / "plexspaces" / sdk).mkdir(exist_ok=True)
    if vendored is not None:
        (project.directory / "vendor" / vendored).mkdir(parents=True)
    module = project.scratch.parent / "module.wasm"
    project.compiler(f'grep -q ^list {project.argv} && echo {listed} || cp {module} "$out"')

    await project.compile()

    assert ("-overlay" in project.argv.read_text()) is added
    if added:
        overlay = json.loads((project.scratch / "overlay.json").read_text())["Replace"]
        [(place, file)] = overlay.items()
        assert Path(place).parent == project.directory.resolve()
        assert 'import _ "plexspaces/outgoing"' in Path(file).read_text()


async def test_compile_of_a_command_stays_a_module(project: Project) -> None:
    """Without the SDK what the compiler wrote is the artifact."""
    project.write("module mine\n")

    artifact = await project.compile()

    assert not artifact.startswith(COMPONENT)
    assert "-buildmode" not in project.argv.read_text()


async def test_compile_of_an_actor_with_an_old_go_says_which_is_needed(project: Project) -> None:
    """A Go that makes commands but cannot export functions is refused before it runs."""
    with pytest.raises(Unsupported, match=r"Go 1\.23\.4 cannot build actors: it must be 1\.24"):
        await project.compile(version="1.23.4")

    assert not project.argv.exists()


@pytest.mark.parametrize(
    ("go_mod", "said"),
    [
        (REQUIRES, "does not say where it is"),
        (REQUIRES + "replace plexspaces => ../gone // moved\n", r"is missing: \.\./gone"),
        (REQUIRES + "replace (\n\tplexspaces v0.1.0 => /no/where\n)\n", "is missing: /no/where"),
    ],
)
async def test_compile_without_the_sdk_names_the_commands(
    project: Project, go_mod: str, said: str
) -> None:
    """A project that lost its copy of the SDK is told how to get it back."""
    project.write(go_mod)

    with pytest.raises(InvalidArgument, match=said) as error:
        await project.compile()

    hint = str(error.value.hint)
    assert hint.startswith("in the project: rm -rf plexspaces && cp -r ")
    assert "go mod edit -require=plexspaces@v0.1.0 -replace=plexspaces=./plexspaces" in hint
    assert not project.argv.exists()


@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        ("echo './main.go:3:2: undefined: x'; exit 1", r"\./main\.go:3:2: undefined: x", None),
        (
            "echo '-buildmode=c-shared requires exactly one main package'; exit 1",
            "is not a program",
            "package main",
        ),
        (
            "echo 'main.go:3:8: package plexspaces/actors is not in std'; exit 1",
            "plexspaces/actors is not in std",
            "go mod edit",
        ),
        (
            "printf 'no required module provides package a.org/b:\\n\\tgo get a.org/b'; exit 1",
            "no required module provides package a.org/b",
            "mine && go get a.org/b",
        ),
        (
            "printf 'go: updates to go.mod needed; to update it:\\n\\tgo mod tidy'; exit 1",
            "updates to go.mod needed",
            "mine && go mod tidy",
        ),
        ("printf '!<arch>' >\"$out\"", "is not a program", "package main"),
        ("printf '\\0asm\\1\\0\\0\\0' >\"$out\"", "serves no actor", r"actor.Serve"),
        ("echo 'mine: no non-test Go files in /mine'; exit 1", "contains no program", "main.go"),
        (
            "echo 'package mine: build constraints exclude all Go files in x'; exit 1",
            "contains no program",
            "main.go",
        ),
        (
            "printf '\\0asm\\1\\0\\0\\0\\7\\053\\1\\047"
            'plexspaces:application/actor@0.2.0#init\\3\\0\' >"$out"',
            r"uses plexspaces:application@0\.2\.0, this version supports 0\.1\.0",
            "cp -r",
        ),
    ],
    ids=[
        "error",
        "library",
        "import",
        "module",
        "untidy",
        "archive",
        "no-actor",
        "empty",
        "excluded",
        "version",
    ],
)
async def test_compile_that_fails_says_why(
    project: Project, script: str, said: str, hint: str | None
) -> None:
    """The compiler's words come through, with a hint where there is a remedy."""
    project.compiler(script)

    with pytest.raises(PlexSpacesError, match=said) as error:
        await project.compile()

    assert hint in str(error.value.hint) if hint else error.value.hint is None
