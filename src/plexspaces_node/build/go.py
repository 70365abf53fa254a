"""Go: a project with ``go.mod`` becomes a WASI command, through the stock Go compiler.

No SDK: the program reads its message from stdin and writes the reply to stdout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.build.environment import BuildEnvironment
from plexspaces_node.build.process import run
from plexspaces_node.build.toolchain import Compilation
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.model import ArtifactKind, Language

OLDEST = (1, 21)
"""The first version that compiles to wasip1."""

_FLAGS = ("-trimpath", "-ldflags=-s -w")
_VERSION = re.compile(r"go version go(?P<version>(?P<major>\d+)\.(?P<minor>\d+)\S*)")
_LOCAL_REPLACEMENT = re.compile(
    r'=>\s*"?(?P<path>\.{1,2}/[^\s"]*|\.{1,2}|/[^\s"]*)"?\s*(?://|$)', re.M
)

_TARGET = {
    "GOOS": "wasip1",
    "GOARCH": "wasm",
    "CGO_ENABLED": "0",
    # The compiler that was found, and not one it would fetch.
    "GOTOOLCHAIN": "local",
    # What decides the result is inside the project: no workspace around it, no commit stamped in.
    "GOWORK": "off",
    "GOFLAGS": "-buildvcs=false",
}
_DROPPED = frozenset({"GOEXPERIMENT", "GOROOT", "GOWASM"})


@dataclass(frozen=True, slots=True)
class GoToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.GO
    kind: ArtifactKind = ArtifactKind.COMMAND
    program: str = "go"
    install: str = "pip install 'plexspaces-node[build-go]'"
    version_arguments: tuple[str, ...] = ("version",)

    def parse_version(self, output: str) -> str:
        match = _VERSION.search(output)
        if match is None or (int(match["major"]), int(match["minor"])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Unsupported(
                f"{output!r} cannot be used: Go must be {oldest} or newer", hint=self.install
            )
        return match["version"]

    def ingredients(self) -> list[str]:
        return [*_FLAGS, *(f"{name}={value}" for name, value in _TARGET.items())]

    def directories(self, project: Path) -> list[Path]:
        """Return the modules that go.mod replaces by directories outside the project."""
        text = (project / "go.mod").read_text(errors="replace")
        top = project.resolve()
        paths = ((top / match["path"]).resolve() for match in _LOCAL_REPLACEMENT.finditer(text))
        return sorted({path for path in paths if path.is_dir() and not path.is_relative_to(top)})

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        kept = {k: v for k, v in environment.variables.items() if k not in _DROPPED}
        if "HOME" not in kept:
            # Without one the compiler has no place for its cache and refuses to work.
            kept.setdefault("GOCACHE", str(environment.cache / "go-build"))
            kept.setdefault("GOPATH", str(environment.cache / "go"))
        return {**kept, **_TARGET, "TMPDIR": str(scratch)}

    async def compile(self, compilation: Compilation) -> None:
        finished = await run(
            [
                *(str(compilation.compiler.program), "build", *_FLAGS),
                *("-o", str(compilation.output), "."),
            ],
            cwd=compilation.project,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if finished.status:
            raise InvalidArgument(f"the program does not compile:\n{finished.output.strip()}")
        with compilation.output.open("rb") as file:
            is_wasm = file.read(4) == b"\0asm"
        if not is_wasm:
            # Of any package but main, the compiler writes an archive.
            raise InvalidArgument(
                f"the package in {compilation.project} is not a program",
                hint="begin its files with `package main` and write `func main()`",
            )
