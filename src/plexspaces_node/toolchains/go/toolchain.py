"""Go: the standard Go compiler makes an actor or a WASI command from a project with ``go.mod``.

It is an actor if its go.mod requires the SDK: the compiler then makes a core module, and `wrap`
makes a component from that. Without the SDK the program reads its message from stdin and writes the
reply to stdout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import __version__
from plexspaces_node.errors import InvalidArgument, Unsupported, quoted
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.shipped import copy_hint
from plexspaces_node.toolchains.threads import in_thread
from plexspaces_node.toolchains.toolchain import Compilation, Compiler, find_compiler
from plexspaces_node.toolchains.wasm.core_module import read_core_module
from plexspaces_node.toolchains.wasm.producers import with_producers
from plexspaces_node.toolchains.wasm.wrap import CONTRACT, wrap, wrapper_digest

OLDEST = (1, 21)
"""The first version that compiles to wasip1."""
OLDEST_FOR_ACTORS = (1, 24)
"""The first version that exports functions."""

SDK = "plexspaces"
"""The SDK's module path, and the directory of a project where its copy lies."""
SDK_VERSION = "v0.1.0"

_HTTP = "outgoing"
"""The SDK's package that net/http needs."""
_IS_HTTP = '{{if eq .ImportPath "net/http"}}yes{{end}}'

_ACTOR = f"{CONTRACT}/actor@"
"""How the exports of an actor begin, in any version of the contract."""

_FLAGS = ("-trimpath", "-ldflags=-w")
_VERSION = re.compile(r"go version go(?P<version>(?P<major>\d+)\.(?P<minor>\d+)\S*)")
_LOCAL_REPLACEMENT = re.compile(
    r'=>\s*"?(?P<path>\.{1,2}/[^\s"]*|\.{1,2}|/[^\s"]*)"?\s*(?://|$)', re.M
)

_REQUIRES_SDK = re.compile(rf"^\s*(?:require\s+)?{SDK}\s+v\d", re.M)
_SDK_REPLACEMENT = re.compile(
    rf'^\s*(?:replace\s+)?{SDK}(?:\s+v\S+)?\s*=>\s*"?(?P<path>[^\s"]+)', re.M
)
_NO_SDK = re.compile(rf"package {SDK}/\S+ is not in std|no required module provides package {SDK}/")

_NOT_REQUIRED = re.compile(r"^\s*go get (\S+)", re.M)
_NOT_TIDY = re.compile(r"^\s*(go mod (?:tidy|download \S+))$", re.M)

_NO_FILES = re.compile(r"no (?:non-test )?Go files in|build constraints exclude all Go files in")

_PROGRAM_HINT = "start its files with `package main` and write `func main()`"
_NO_FILES_HINT = "write main.go, with `package main` and `func main()`: plexspaces new go NAME"
_ACTOR_HINT = (
    f"import {SDK}/actor and write `func main() {{ actor.Serve(...) }}`; a program without the SDK "
    "in its go.mod becomes a WASI command"
)

_TARGET = {
    "GOOS": "wasip1",
    "GOARCH": "wasm",
    "CGO_ENABLED": "0",
    # Use the compiler that was found, not one that it would download.
    "GOTOOLCHAIN": "local",
    # Only the project affects the result: no workspace around it, no commit stamped in.
    "GOWORK": "off",
    "GOFLAGS": "-buildvcs=false",
}
_DROPPED = frozenset({"GOEXPERIMENT", "GOROOT", "GOWASM"})


@dataclass(frozen=True, slots=True)
class GoToolchain:
    """See `toolchain.Toolchain`."""

    language: Language = Language.GO
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

    def kind_of(self, project: Path) -> ArtifactKind:
        uses_sdk = _REQUIRES_SDK.search(_go_mod(project))
        return ArtifactKind.ACTOR if uses_sdk else ArtifactKind.COMMAND

    async def describe(self, environment: BuildEnvironment) -> str:
        compiler = await find_compiler(self, environment)
        self._check_version(compiler)
        return compiler.placed

    async def ready(
        self, project: Path, environment: BuildEnvironment, *, progress: Callable[[str], None]
    ) -> Compiler:
        return await find_compiler(self, environment)

    def ingredients(self) -> list[str]:
        target = [f"{name}={value}" for name, value in _TARGET.items()]
        return [*_FLAGS, *target, _HTTP, __version__, wrapper_digest()]

    def directories(self, project: Path) -> list[Path]:
        """Return the modules that go.mod replaces by directories outside the project."""
        text = _go_mod(project)
        top = project.resolve()
        paths = ((top / match["path"]).resolve() for match in _LOCAL_REPLACEMENT.finditer(text))
        return sorted({path for path in paths if path.is_dir() and not path.is_relative_to(top)})

    def variables(self, environment: BuildEnvironment, scratch: Path) -> dict[str, str]:
        kept = {k: v for k, v in environment.variables.items() if k not in _DROPPED}
        if "HOME" not in kept:
            # Without one the compiler has no directory for its cache and refuses to work.
            kept.setdefault("GOCACHE", str(environment.cache / "go-build"))
            kept.setdefault("GOPATH", str(environment.cache / "go"))
        return {**kept, **_TARGET, "TMPDIR": str(scratch)}

    async def compile(self, compilation: Compilation) -> None:
        actor = self.kind_of(compilation.project) is ArtifactKind.ACTOR
        if actor:
            self._check_actor(compilation)
        module = compilation.scratch / "module.wasm" if actor else compilation.output
        overlay = await self._overlay(compilation) if actor else ()
        finished = await run(
            [
                *(str(compilation.compiler.program), "build", *_FLAGS),
                *(("-buildmode=c-shared",) if actor else ()),
                *overlay,
                *("-o", str(module), "."),
            ],
            cwd=compilation.project,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if finished.status:
            raise _not_compiled(finished.output.strip(), compilation.project)
        with module.open("rb") as file:
            is_wasm = file.read(4) == b"\0asm"
        if not is_wasm:
            # For any package but main, the compiler writes an archive.
            raise InvalidArgument(
                f"the package in {compilation.project} is not a program", hint=_PROGRAM_HINT
            )
        if actor:
            await in_thread(_wrap, module, compilation)

    async def _overlay(self, compilation: Compilation) -> tuple[str, ...]:
        """Return the flag that adds the node's HTTP to an actor that uses net/http, or nothing."""
        project, sdk = compilation.project, _sdk_of(compilation.project)
        vendored = project / "vendor"
        places = (sdk, vendored / SDK) if vendored.is_dir() else (sdk,)
        if not all((place / _HTTP).is_dir() for place in places):
            # An SDK without it, or a project that vendors only what it imports itself.
            return ()
        listed = await run(
            [str(compilation.compiler.program), "list", "-deps", "-f", _IS_HTTP, "."],
            cwd=project,
            variables=compilation.variables,
            timeout_s=compilation.timeout_s,
        )
        if listed.status or not listed.output.strip():
            # If it cannot be listed it does not compile either, which says why.
            return ()
        file, added = compilation.scratch / "overlay.json", compilation.scratch / "http.go"
        added.write_text(f'package main\n\nimport _ "{SDK}/{_HTTP}"\n')
        # The name is one that the project has no file of.
        replaced = {str(project.resolve() / "plexspaces_http_of_the_node.go"): str(added)}
        file.write_text(json.dumps({"Replace": replaced}))
        return ("-overlay", str(file))

    def _check_version(self, compiler: Compiler) -> None:
        version = tuple(map(int, re.findall(r"\d+", compiler.version)[:2]))
        if version < OLDEST_FOR_ACTORS:
            oldest = ".".join(map(str, OLDEST_FOR_ACTORS))
            raise Unsupported(
                f"Go {compiler.version} cannot build actors: it must be {oldest} or newer; "
                f"found at {compiler.program}",
                hint=self.install,
            )

    def _check_actor(self, compilation: Compilation) -> None:
        self._check_version(compilation.compiler)
        replacement = _SDK_REPLACEMENT.search(_go_mod(compilation.project))
        if replacement is None or not _sdk_of(compilation.project).is_dir():
            raise InvalidArgument(
                f"the SDK that go.mod requires is missing: {replacement['path']}"
                if replacement
                else "go.mod requires the SDK but does not say where it is",
                hint=_sdk_hint(),
            )


def _sdk_of(project: Path) -> Path:
    """Return where go.mod says that the SDK is; it need not be there."""
    replacement = _SDK_REPLACEMENT.search(_go_mod(project))
    return project / (replacement["path"] if replacement else SDK)


def _go_mod(project: Path) -> str:
    return (project / "go.mod").read_text(errors="replace")


def _not_compiled(said: str, project: Path) -> InvalidArgument:
    if "-buildmode=c-shared requires exactly one main package" in said:
        return InvalidArgument(f"the package in {project} is not a program", hint=_PROGRAM_HINT)
    if _NO_FILES.search(said):
        return InvalidArgument(f"{project} contains no program:\n{said}", hint=_NO_FILES_HINT)
    hint = None
    if _NO_SDK.search(said):
        hint = _sdk_hint()
    elif missing := dict.fromkeys(_NOT_REQUIRED.findall(said)):
        hint = f"cd {quoted(project)} && go get {' '.join(missing)}"
    elif untidy := _NOT_TIDY.search(said):
        hint = f"cd {quoted(project)} && {untidy[1]}"
    return InvalidArgument(f"the program does not compile:\n{said}", hint=hint)


def _sdk_hint() -> str:
    edit = f" && go mod edit -require={SDK}@{SDK_VERSION} -replace={SDK}=./{SDK}"
    return copy_hint("sdk/go", SDK, then=edit)


def _wrap(module: Path, compilation: Compilation) -> None:
    binary = module.read_bytes()
    if not any(name.startswith(_ACTOR) for name in read_core_module(binary).exports):
        raise InvalidArgument(
            f"the program in {compilation.project} serves no actor", hint=_ACTOR_HINT
        )
    made_by = {
        "language": {"Go": compilation.compiler.version},
        "sdk": {"plexspaces": __version__},
    }
    compilation.output.write_bytes(with_producers(wrap(binary, hint=_sdk_hint()), made_by))
