"""The engine with scripted compilers: each is a shell script that acts like the real one."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from support.python_component import python_component

from plexspaces_node.errors import DeadlineExceeded, InvalidArgument, PlexSpacesError, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build
from plexspaces_node.toolchains.python.library import Library, standard_library

MODULE = r"printf '\0asm\1\0\0\0'"
COMPONENT = 'cat "$(dirname "$0")/component.wasm" >"$out"'
ARCHIVE = "printf '!<arch>'"
OUTPUT = "out=; while [ $# -gt 0 ]; do case $1 in -o|--output) out=$2;; esac; shift; done"


class Bench:
    """A directory with scripted compilers, a project and a cache."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tools = directory / "tools"
        self.project = directory / "thing"
        self.runs = directory / "runs"
        self.tools.mkdir()
        self.project.mkdir()
        self.progress: list[str] = []
        self.environment = BuildEnvironment(
            cache=directory / "cache",
            search=(self.tools,),
            variables={"PATH": os.defpath, "HOME": str(directory), "GOFLAGS": "-mod=mod"},
            timeout_s=20,
        )

    def compiler(self, name: str, version: str, script: str) -> None:
        """Install a compiler that prints its version, counts its runs and runs a script."""
        path = self.tools / name
        path.write_text(
            f"#!/bin/sh\ncase $1 in version|--version) echo '{version}'; exit;; esac\n"
            f"echo run >>{self.runs}\n{OUTPUT}\n{script}\n"
        )
        path.chmod(0o755)

    def go(self, script: str = f'{MODULE} >"$out"', version: str = "1.26.6") -> None:
        """Install a Go compiler and make the project a Go one."""
        self.compiler("go", f"go version go{version} linux/amd64", script)
        self.write("go.mod", "module thing\n")

    def python(self, script: str = COMPONENT, version: str = "0.25.1") -> None:
        """Install a Python compiler and make the project a Python one."""
        (self.tools / "component.wasm").write_bytes(python_component())
        # Asked for the standard library first, and kept as it is then.
        library = standard_library(self.environment)
        library.parent.mkdir(exist_ok=True)
        library.write_bytes(Library().file())
        self.compiler("componentize-py", f"componentize-py {version}", script)
        self.write("app.py", "x = 1\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def build(self, output: Path | None = None) -> BuildResult:
        """Build the project."""
        return await build(
            self.project, output, progress=self.progress.append, environment=self.environment
        )

    def compiled(self) -> int:
        """Return how often a compiler ran."""
        return len(self.runs.read_text().split()) if self.runs.exists() else 0

    def left(self) -> list[str]:
        """Return what builds left besides the project's own files."""
        cache = [str(path) for path in self.environment.cache.glob("*")]
        return cache + [str(path) for path in self.project.iterdir() if path.suffix != ".mod"]


class Lifeline:
    """A pipe that a script and all its children hold: it is closed when the last has ended."""

    def __init__(self, path: Path) -> None:
        self.hold = f"exec 9>{path}; echo >&9"
        self._path = path

    def __enter__(self) -> Self:
        os.mkfifo(self._path)
        self._end = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._end)

    async def held(self) -> None:
        """Wait until a script holds it."""
        assert await self._next() == b"\n"

    async def released(self) -> None:
        """Wait until nobody holds it any more."""
        assert await self._next() == b""

    async def _next(self) -> bytes:
        ready, _, _ = await asyncio.to_thread(select.select, [self._end], [], [], 10)
        assert ready, "nothing happened to the lifeline in 10 s"
        return os.read(self._end, 10)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_build_with_a_go_project_makes_a_command(bench: Bench) -> None:
    """The artifact lands in dist under the project's name, and the result describes it."""
    bench.go()

    result = await bench.build()

    assert result.path == bench.project / "dist" / "thing.wasm"
    assert result.path.read_bytes() == b"\0asm\1\0\0\0"
    assert result.path.stat().st_mode & 0o777 == 0o644
    assert (result.language, result.kind) == (Language.GO, ArtifactKind.COMMAND)
    assert (result.size_bytes, result.cached) == (8, False)
    assert result.duration_ns > 0
    assert bench.progress == ["thing: compiling with go 1.26.6"]
    assert [path.suffix for path in bench.environment.cache.iterdir()] == [".wasm"]


async def test_build_with_a_python_project_makes_an_actor_that_says_so(bench: Bench) -> None:
    """A Python artifact names its language, which its compiler does not."""
    bench.python()

    result = await bench.build()

    assert (result.language, result.kind) == (Language.PYTHON, ArtifactKind.ACTOR)
    assert b"\x08language\x01\x06Python" in result.path.read_bytes()


@pytest.mark.parametrize("language", ["go", "python"])
async def test_build_with_nothing_changed_runs_no_compiler(bench: Bench, language: str) -> None:
    """A second build is the same bytes from the cache, also when dist was removed."""
    getattr(bench, language)()
    first = (await bench.build()).path.read_bytes()
    (bench.project / "dist" / "thing.wasm").unlink()

    again = await bench.build()

    assert again.cached
    assert again.path.read_bytes() == first
    assert bench.compiled() == 1
    assert bench.progress[-1] == "thing: unchanged, taken from the build cache"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda bench: bench.write("lib/new.go", "package lib"), id="file"),
        pytest.param(lambda bench: bench.go(version="1.27.0"), id="compiler"),
    ],
)
async def test_build_with_a_change_compiles_anew(
    bench: Bench, change: Callable[[Bench], None]
) -> None:
    """A change of any source file or of the compiler's version is never answered from the cache."""
    bench.go()
    await bench.build()

    change(bench)

    assert not (await bench.build()).cached
    assert bench.compiled() == 2


async def test_build_with_a_module_replaced_by_a_directory_outside_watches_it(
    bench: Bench,
) -> None:
    """Source that go.mod takes from beside the project counts as the project's."""
    bench.go()
    bench.write("go.mod", "module thing\nreplace (\n\texample.com/lib => ../lib // near\n)\n")
    library = bench.directory / "lib"
    library.mkdir()
    await bench.build()

    (library / "lib.go").write_text("package lib")

    assert not (await bench.build()).cached


async def test_build_with_a_file_edited_meanwhile_is_not_cached(bench: Bench) -> None:
    """What was compiled while a file changed is delivered, but not kept for either version."""
    bench.go(f'{MODULE} >"$out"; echo "// edited" >>go.mod')

    await bench.build()

    assert bench.left() == [str(bench.project / "dist")]
    assert not (await bench.build()).cached


async def test_build_with_an_output_writes_there_only(bench: Bench) -> None:
    """With an output named, the project's directory stays as it was."""
    bench.go()
    output = bench.directory / "made.wasm"

    result = await bench.build(output)

    assert result.path == output
    assert [path.name for path in bench.project.iterdir()] == ["go.mod"]


async def test_build_into_its_own_sources_does_not_change_them(bench: Bench) -> None:
    """An output beside the sources is not taken for one of them by the next build."""
    bench.go()
    output = bench.project / "made.wasm"
    await bench.build(output)

    assert (await bench.build(output)).cached


async def test_build_edited_output_does_not_reach_the_cache(bench: Bench) -> None:
    """Whatever is done to the artifact, the next build delivers what was compiled."""
    bench.go()
    path = (await bench.build()).path
    path.write_bytes(b"\0asm spoilt")

    assert (await bench.build()).path.read_bytes() == b"\0asm\1\0\0\0"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("nowhere/out.wasm", "does not exist"),
        ("thing", "is a directory"),
        ("thing/go.mod", "is not a WebAssembly file and will not be overwritten"),
    ],
)
async def test_build_with_a_bad_output_refuses_before_it_compiles(
    bench: Bench, output: str, said: str
) -> None:
    """A missing directory, a directory, and a file that is no artifact are refused at once."""
    bench.go()

    with pytest.raises(InvalidArgument, match=said):
        await bench.build(bench.directory / output)

    assert bench.compiled() == 0
    assert (bench.project / "go.mod").read_text() == "module thing\n"


async def test_build_that_does_not_compile_carries_the_compilers_words(bench: Bench) -> None:
    """The error holds what the compiler said, with file and line, and nothing is left."""
    bench.go("echo './main.go:3:2: undefined: x' >&2; exit 1")

    with pytest.raises(InvalidArgument, match=r"\./main\.go:3:2: undefined: x"):
        await bench.build()

    assert bench.left() == []


async def test_build_of_a_package_that_is_no_program_says_so(bench: Bench) -> None:
    """A Go library is refused with what it lacks."""
    bench.go(f'{ARCHIVE} >"$out"')

    with pytest.raises(InvalidArgument, match="is not a program") as error:
        await bench.build()

    assert "package main" in str(error.value.hint)
    assert bench.left() == []


async def test_build_of_a_python_project_without_an_entry_says_so(bench: Bench) -> None:
    """A Python project without app.py is refused with what to write."""
    bench.python()
    (bench.project / "app.py").rename(bench.project / "pyproject.toml")

    with pytest.raises(InvalidArgument, match=r"has no app\.py") as error:
        await bench.build()

    assert "plexspaces_actor.Actor" in str(error.value.hint)


async def test_build_without_the_compiler_names_the_one_command(bench: Bench) -> None:
    """A compiler that is not installed is an error with the command that installs it."""
    bench.write("go.mod", "module thing\n")

    with pytest.raises(Unsupported, match="needs go, which is not installed") as error:
        await bench.build()

    assert error.value.hint == "pip install 'plexspaces-node[build-go]'"
    assert bench.left() == []


@pytest.mark.parametrize("version", ["0.24.0", "1.0.0"])
async def test_build_with_an_untested_python_compiler_refuses(bench: Bench, version: str) -> None:
    """A compiler of another series makes other bindings, so it is refused with the remedy."""
    bench.python(version=version)

    with pytest.raises(Unsupported, match=rf"{version} cannot be used"):
        await bench.build()


async def test_build_with_too_old_a_go_refuses(bench: Bench) -> None:
    """A Go that cannot compile to WASI is refused with the oldest that can."""
    bench.go(version="1.20.14")

    with pytest.raises(Unsupported, match=r"1\.21 or newer"):
        await bench.build()


async def test_build_with_a_broken_compiler_says_what_it_said(bench: Bench) -> None:
    """A compiler that fails to print its version is reported with its own words."""
    bench.go()
    (bench.tools / "go").write_text("#!/bin/sh\necho no such libc; exit 127")

    with pytest.raises(Unsupported, match="does not work: no such libc"):
        await bench.build()


async def test_build_with_a_compiler_for_another_machine_says_so(bench: Bench) -> None:
    """A compiler that the system cannot run is a plain error."""
    bench.go()
    (bench.tools / "go").write_bytes(b"\x7fELF for another machine")

    with pytest.raises(Unsupported, match="cannot be started"):
        await bench.build()


async def test_build_with_a_python_compiler_hides_the_users_environment(bench: Bench) -> None:
    """The Python compiler sees an empty virtual environment, and none of the user's variables."""
    bench.python(f'env >"{bench.directory}/env"; {COMPONENT}')

    await bench.build()

    seen = dict(
        line.split("=", 1) for line in (bench.directory / "env").read_text().splitlines() if line
    )
    assert {"HOME", "GOFLAGS"}.isdisjoint(seen)
    assert seen["VIRTUAL_ENV"].startswith(str(bench.environment.cache))


async def test_build_with_a_go_compiler_fixes_what_decides_the_result(bench: Bench) -> None:
    """The Go compiler gets the target, and no flags, workspace or toolchain of the user's."""
    bench.go(f'env >"{bench.directory}/env"; {MODULE} >"$out"')

    await bench.build()

    seen = (bench.directory / "env").read_text().splitlines()
    for expected in ("GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=-buildvcs=false", "GOWORK=off"):
        assert expected in seen
    assert f"HOME={bench.directory}" in seen


async def test_build_without_a_home_gives_go_a_cache(bench: Bench) -> None:
    """Where there is no home directory, Go's own cache lies beside the builds."""
    bench.environment = replace(bench.environment, variables={"PATH": os.defpath})
    bench.go(f'env >"{bench.directory}/env"; {MODULE} >"$out"')

    await bench.build()

    assert f"GOCACHE={bench.environment.cache}/go-build" in (bench.directory / "env").read_text()


@pytest.mark.parametrize("ending", ["sleep 600", "exit 0"], ids=["hangs", "leaves-a-child"])
async def test_build_with_a_compiler_that_hangs_ends_it_and_its_children(
    bench: Bench, ending: str
) -> None:
    """At the deadline the compiler and what it started are gone, and so are its files."""
    bench.environment = replace(bench.environment, timeout_s=1.0)
    with Lifeline(bench.directory / "lifeline") as lifeline:
        bench.go(f"{lifeline.hold}; sleep 600 & {ending}")

        with pytest.raises(DeadlineExceeded, match=r"go did not finish within 1 s"):
            await bench.build()

        await lifeline.held()
        await lifeline.released()
    assert bench.left() == []


async def test_build_when_cancelled_ends_the_compiler(bench: Bench) -> None:
    """A cancelled build leaves no process and no file."""
    with Lifeline(bench.directory / "lifeline") as lifeline:
        bench.go(f"{lifeline.hold}; sleep 600 & sleep 600")
        task = asyncio.create_task(bench.build())
        await lifeline.held()

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await lifeline.released()
    assert bench.left() == []


async def test_build_with_endless_output_keeps_the_end_of_it(bench: Bench) -> None:
    """A compiler that says a great deal costs bounded memory, and the last words are kept."""
    bench.go("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo the end; exit 1")

    with pytest.raises(InvalidArgument, match=r"the end$") as error:
        await bench.build()

    assert len(error.value.message) < 70_000


async def test_build_without_a_writable_cache_says_which_variable_helps(bench: Bench) -> None:
    """A cache that cannot be made is an error with the setting that moves it."""
    bench.go()
    (bench.directory / "file").write_text("")
    bench.environment = replace(bench.environment, cache=bench.directory / "file" / "cache")

    with pytest.raises(PlexSpacesError, match="cannot be written"):
        await bench.build()


async def test_builds_at_the_same_time_do_not_disturb_each_other(bench: Bench) -> None:
    """Two builds of one project at once both deliver the whole artifact."""
    bench.go()

    results = await asyncio.gather(bench.build(), bench.build())

    assert [result.size_bytes for result in results] == [8, 8]
    assert len(list(bench.environment.cache.iterdir())) == 1


def test_here_prefers_the_compilers_beside_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers installed with the product come before those on PATH."""
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    monkeypatch.setenv("PATH", "/usr/bin::/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")

    here = BuildEnvironment.here()

    assert here.search == (Path("/venv/bin"), Path("/usr/bin"), Path("/bin"))
    assert here.cache == Path("/cache/plexspaces/build")


def test_here_with_a_relative_cache_home_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_CACHE_HOME is ignored, as its specification demands."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/someone")

    assert BuildEnvironment.here().cache == Path("/home/someone/.cache/plexspaces/build")
