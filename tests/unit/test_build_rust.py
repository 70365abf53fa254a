"""Building Rust with scripted compilers: which is chosen, how it is called, what is refused."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plexspaces_node.errors import DeadlineExceeded, Internal, InvalidArgument, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build
from plexspaces_node.toolchains.project import read_sources
from plexspaces_node.toolchains.rust.compiler import DEBIAN_INSTALL, RUSTUP_INSTALL, find_rust
from plexspaces_node.toolchains.rust.manifest import library, outside, workspace
from plexspaces_node.toolchains.rust.toolchain import install
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.wasm.assembly import assemble

ROOT = Path(__file__).parents[2]
CONTRACT = "plexspaces:application"
WASIP2 = "wasm32-wasip2/lib"
WASIP1 = "wasm32-wasip1/lib/self-contained"

CARGO = """#!/bin/sh
echo "$@" >>{log}
case $1 in
    fetch) {fetch}; exit;;
    --config|build) [ -z "$PLEXSPACES_TEST_FAIL" ] || {{ echo no core; exit 1; }}
        into=$CARGO_TARGET_DIR/wasm32-wasip1/release/deps; mkdir -p "$into"
        for name in std core seed; do echo $name >"$into/lib$name-1.rlib"; done
        env >{log}.std; exit;;
esac
env >{log}.env
{compile}
"""

# Asked about itself; or to compile one file into an object, whose path follows -o.
RUSTC = """#!/bin/sh
case $1 in -vV) echo 'release: {version}'; exit;; --print) echo {sysroot}; exit;; esac
while [ "$1" != -o ]; do shift; done
[ -z "$PLEXSPACES_TEST_FAIL_THREADS" ] || {{ echo no linkage; exit 1; }}
grep -c pthread_create "$3" >"$2"
"""


def component(text: str) -> bytes:
    """Return something that looks like a component and holds a text."""
    body = b"\x04name" + text.encode()
    assert len(body) < 128
    return b"\0asm\x0d\0\1\0\0" + bytes([len(body)]) + body


ACTOR = component(f"{CONTRACT}/actor@0.1.0#init")


class Bench:
    """A machine with scripted Rust compilers, a project and a cache."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = directory / "thing"
        self.libc = directory / "libc"
        self.progress: list[str] = []
        self._search: list[Path] = []
        self.variables = {"PATH": os.defpath, "HOME": str(directory), "RUSTFLAGS": "-Cbad"}
        self.write("Cargo.toml", '[package]\nname = "my-thing"\n')
        self.write("Cargo.lock", "")
        self.write("src/lib.rs", "")

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def tool(self, directory: str, name: str, script: str = "exit 0") -> Path:
        """Install a program."""
        place = self.directory / directory
        place.mkdir(exist_ok=True)
        if place not in self._search:
            self._search.append(place)
        (place / name).write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
        return place / name

    def rust(
        self,
        directory: str,
        *libraries: str,
        version: str = "1.96.0",
        made: bytes = ACTOR,
        compile_: str | None = None,
        fetch: str = "true",
    ) -> None:
        """Install a compiler that has standard libraries, and whose cargo makes `made`."""
        sysroot = self.directory / directory / "sysroot"
        for name in libraries:
            (sysroot / "lib" / "rustlib" / name).mkdir(parents=True)
            if name == WASIP1:
                (sysroot / "lib" / "rustlib" / name / "libc.a").write_text("")
        self.tool(
            directory,
            "rustc",
            RUSTC.format(version=version, sysroot=sysroot),
        )
        (self.directory / "made").write_bytes(made)
        components = (sysroot / "lib" / "rustlib" / WASIP2).is_dir()
        target = "wasm32-wasip2" if components else "wasm32-wasip1"
        place = f"$CARGO_TARGET_DIR/{target}/release"
        script = compile_ or (
            f'mkdir -p "{place}"; cp "{self.directory}/made" "{place}/my_thing.wasm"'
        )
        self.tool(
            directory,
            "cargo",
            CARGO.format(log=self.directory / "cargo.log", compile=script, fetch=fetch),
        )

    def distribution(self, made: bytes) -> None:
        """Install a compiler as Debian does: sources for libraries, and what goes with it."""
        self.rust("usr", "src/rust/library/std", "src/rust/library/vendor", made=made)
        std = self.directory / "usr/sysroot/lib/rustlib/src/rust/library/std"
        (std / "Cargo.toml").write_text("")
        self.libc.mkdir()
        for name in ("libc.a", "crt1-command.o", "crt1-reactor.o"):
            (self.libc / name).write_text(name)
        self.tool("usr", "wasm-ld-14")
        self.tool("usr", "wasm-ld-22")
        self.tool("usr", "wasm-ld-doc")

    @property
    def environment(self) -> BuildEnvironment:
        return BuildEnvironment(
            cache=self.directory / "cache",
            search=tuple(self._search),
            variables=self.variables,
            timeout_s=20,
            wasi_libc=self.libc,
        )

    async def build(self) -> BuildResult:
        return await build(
            self.project, None, progress=self.progress.append, environment=self.environment
        )

    def calls(self) -> list[str]:
        """Return the arguments of each call of cargo."""
        log = self.directory / "cargo.log"
        return log.read_text().splitlines() if log.exists() else []

    def seen(self, which: str = "env") -> dict[str, str]:
        """Return the variables of the last compilation."""
        lines = (self.directory / f"cargo.log.{which}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def sysroot(self) -> Path:
        [path] = (self.directory / "cache" / "rust").glob("*/sysroot")
        return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def module(exported: str = "0.1.0", imported: str = "0.1.0") -> bytes:
    """Return a core module as the SDK's are."""
    functions = "".join(
        f'(func (export "{CONTRACT}/actor@{exported}#{name}") {form})'
        for name, form in (
            ("init", "(param i32 i32) (result i32) unreachable"),
            ("handle-message", "(param i32 i32 i32 i32 i32 i32) (result i32) unreachable"),
            ("snapshot-state", "(result i32) unreachable"),
            ("shutdown", ""),
        )
    )
    log = f'(import "{CONTRACT}/logging@{imported}" "log" (func (param i32 i32 i32)))'
    realloc = '(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)'
    return assemble(f'(module {log} (memory (export "memory") 1) {realloc} {functions})')


# ---- which compiler -------------------------------------------------------------------------


async def chosen(bench: Bench) -> tuple[str, str]:
    """Return the directory of the compiler that is chosen, and its version."""
    compiler = await find_rust(bench.project, bench.environment, bench.variables)
    return compiler.program.parent.name, compiler.version


async def test_find_when_several_are_there_takes_the_one_that_makes_components(
    bench: Bench,
) -> None:
    """wasm32-wasip2 wins wherever it is, else an installed wasm32-wasip1, else one's own."""
    bench.distribution(module())
    assert await chosen(bench) == ("usr", "1.96.0 for wasm32-wasip1")
    bench.rust("second", WASIP1, version="1.90.0")
    assert await chosen(bench) == ("second", "1.90.0 for wasm32-wasip1")
    bench.rust("third", WASIP2, version="1.95.0-beta.2")
    assert await chosen(bench) == ("third", "1.95.0-beta.2 for wasm32-wasip2")


async def test_find_asks_in_the_project_where_rustup_is_told_which_compiler(bench: Bench) -> None:
    """The compiler is run where rust-toolchain.toml counts."""
    bench.tool("bin", "cargo")
    bench.tool("bin", "rustc", f"pwd >{bench.directory}/where; echo 'release: 1.96.0'")

    with pytest.raises(Unsupported):
        await chosen(bench)

    assert (bench.directory / "where").read_text().strip() == str(bench.project)


@pytest.mark.parametrize(
    ("tools", "hint"),
    [
        ((), "install rustup, then: rustup target add wasm32-wasip2"),
        (("rustup",), RUSTUP_INSTALL),
        (("apt-get",), DEBIAN_INSTALL),
        (("rustup", "apt-get"), f"{RUSTUP_INSTALL} || {DEBIAN_INSTALL}"),
    ],
)
async def test_build_without_a_compiler_names_what_installs_one(
    bench: Bench, tools: tuple[str, ...], hint: str
) -> None:
    """The hint fits what the machine has."""
    for name in tools:
        bench.tool("bin", name)

    with pytest.raises(Unsupported, match="rustc and cargo are not installed") as error:
        await bench.build()

    assert error.value.hint == hint


async def test_find_says_of_each_compiler_why_it_cannot_be_used(bench: Bench) -> None:
    """Too old, broken, without a library and without the parts of one: each is named."""
    bench.rust("old", WASIP2, version="1.84.1")
    bench.rust("bare", "x86_64-unknown-linux-gnu")
    bench.tool("broken", "cargo")
    bench.tool("broken", "rustc", "echo no default toolchain; exit 1")

    with pytest.raises(Unsupported) as error:
        await chosen(bench)

    assert "old/rustc is 1.84.1 and must be 1.85 or newer" in error.value.message
    assert "broken/rustc does not work: no default toolchain" in error.value.message
    assert (
        "it lacks the sources of its standard library and a C library for WASI in "
        f"{bench.libc} and wasm-ld" in error.value.message
    )


# ---- a compiler with the target -------------------------------------------------------------


async def test_build_with_wasip2_delivers_the_component(bench: Bench) -> None:
    """The compiler's component is the artifact; it says its language."""
    bench.rust("bin", WASIP2)

    result = await bench.build()

    assert (result.language, result.kind) == (Language.RUST, ArtifactKind.ACTOR)
    binary = result.path.read_bytes()
    assert binary.startswith(ACTOR[:8])
    assert binary.endswith(ACTOR[8:])
    assert b"\x08language\x01\x04Rust\x061.96.0" in binary
    assert bench.progress == ["thing: compiling with cargo 1.96.0 for wasm32-wasip2"]
    assert bench.calls() == [
        "rustc --quiet --release --target wasm32-wasip2 --lib --crate-type cdylib -- "
        f"--remap-path-prefix={bench.project}=."
    ]


async def test_build_keeps_what_decides_the_result_from_the_users_variables(bench: Bench) -> None:
    """Flags, profiles and wrappers of the environment do not reach the compiler."""
    dropped = ("RUSTC_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_PROFILE_RELEASE_LTO", "RUSTFLAGS")
    bench.variables |= dict.fromkeys(dropped, "no") | {"CARGO_HTTP_PROXY": "kept"}
    bench.rust("bin", WASIP2)

    await bench.build()

    seen = bench.seen()
    assert set(dropped).isdisjoint(seen)
    assert seen["CARGO_HTTP_PROXY"] == "kept"
    assert seen["RUSTC"] == str(bench.directory / "bin" / "rustc")
    assert seen["CARGO_TARGET_DIR"].startswith(str(bench.directory / "cache" / "rust"))
    assert str(bench.project) not in seen["CARGO_ENCODED_RUSTFLAGS"]


async def test_build_without_a_home_gives_cargo_one(bench: Bench) -> None:
    """Where there is no home directory, crates lie beside the builds."""
    del bench.variables["HOME"]
    bench.rust("bin", WASIP2)

    await bench.build()

    assert bench.seen()["CARGO_HOME"] == str(bench.directory / "cache" / "cargo")


async def test_build_again_takes_it_from_the_cache_and_another_compiler_does_not(
    bench: Bench,
) -> None:
    """Unchanged source is not compiled twice by one compiler."""
    bench.rust("bin", WASIP2)
    assert not (await bench.build()).cached
    assert (await bench.build()).cached

    bench.rust("bin", version="1.97.0")
    assert not (await bench.build()).cached


async def test_build_never_takes_what_another_project_left(bench: Bench) -> None:
    """Cargo names its output by the library alone: an old one is gone before it runs."""
    bench.rust("bin", WASIP2)
    await bench.build()
    bench.write("README.md", "changed")
    bench.rust("bin", compile_="true")

    with pytest.raises(Internal, match=r"produced no my_thing\.wasm"):
        await bench.build()


async def test_build_without_a_lock_file_has_cargo_make_one_first(bench: Bench) -> None:
    """The versions are chosen before the source is looked at, so that the build is kept."""
    (bench.project / "Cargo.lock").unlink()
    bench.rust("bin", WASIP2, fetch="echo made >Cargo.lock")

    await bench.build()

    assert bench.calls()[0] == "fetch --quiet"
    assert (await bench.build()).cached
    assert sorted(path.name for path in bench.project.iterdir()) == [
        "Cargo.lock",
        "Cargo.toml",
        "dist",
        "src",
    ]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("error: failed to write `/x/Cargo.lock`", "copy {project} to a writable"),
        ("error: failed to get `plexspaces` as a dependency of package", "cp -r {sdk} plexspaces"),
        ("error: no matching package named `serd` found", None),
    ],
)
async def test_build_whose_crates_cannot_be_chosen_says_what_cargo_said(
    bench: Bench, said: str, hint: str | None
) -> None:
    """Cargo's own words, with a hint where there is a remedy."""
    (bench.project / "Cargo.lock").unlink()
    bench.rust("bin", WASIP2, fetch=f"echo '{said}'; exit 101")

    with pytest.raises(InvalidArgument, match=re.escape(said)) as error:
        await bench.build()

    expected = hint and hint.format(project=bench.project, sdk=shipped("sdk/rust"))
    assert expected is None or expected in str(error.value.hint)
    assert (error.value.hint is None) == (hint is None)


async def test_build_of_a_program_that_does_not_compile_shows_the_compilers_words(
    bench: Bench,
) -> None:
    """What the compiler says comes through as it is."""
    bench.rust("bin", WASIP2, compile_="echo 'error[E0308]: --> src/lib.rs:3:5'; exit 101")

    with pytest.raises(InvalidArgument, match=r"does not compile:\nerror\[E0308\].*src/lib.rs:3:5"):
        await bench.build()


async def test_build_of_a_crate_that_compiles_c_says_that_it_cannot_be_used(bench: Bench) -> None:
    """The complaint of a C compiler that is not there is long, and helps nobody."""
    words = "error: failed to run custom build command for `zstd-sys v2.1.3+zstd.1.5.7`"
    bench.rust(
        "bin",
        WASIP2,
        compile_=f"echo '{words}'; echo '  error occurred in cc-rs: no clang'; exit 101",
    )

    with pytest.raises(InvalidArgument, match="does not compile") as error:
        await bench.build()

    hint = str(error.value.hint)
    assert hint.startswith("zstd-sys compiles C, which cannot be used here: ")
    assert hint.endswith(f"cd {bench.project} && cargo tree --invert zstd-sys")


async def test_build_that_lacks_crates_names_the_command_that_adds_them(bench: Bench) -> None:
    """All that are missing, once each, also those that only the tests were given."""
    lacking = ("serde_json", "regex", "serde_json")
    words = "; ".join(f"help: use `cargo add {name}` to add it" for name in lacking)
    bench.rust("bin", WASIP2, compile_=f"echo '{words}'; exit 101")

    with pytest.raises(InvalidArgument, match="does not compile") as error:
        await bench.build()

    assert error.value.hint == f"cd {bench.project} && cargo add serde_json regex"


@pytest.mark.parametrize(
    ("made", "said", "hint"),
    [
        (component("nothing"), "src/lib.rs exports no actor", "plexspaces::export!"),
        (
            component(f"{CONTRACT}/actor@0.2.0#init"),
            "uses .*@0.2.0, this version supports 0.1.0",
            "cp -r",
        ),
    ],
)
async def test_build_of_what_is_no_actor_of_this_contract_is_refused(
    bench: Bench, made: bytes, said: str, hint: str
) -> None:
    """A component without the SDK's export, or of another contract, is no artifact."""
    bench.rust("bin", WASIP2, made=made)

    with pytest.raises(InvalidArgument, match=said) as error:
        await bench.build()

    assert hint in str(error.value.hint)


async def test_build_whose_linker_misses_the_export_says_so_plainly(bench: Bench) -> None:
    """The linker's long complaint becomes one line."""
    words = f"2: failed to find export of interface `{CONTRACT}/actor@0.1.0` function `init`"
    bench.rust("bin", WASIP2, compile_=f"echo '{words}'; exit 1")

    with pytest.raises(InvalidArgument, match=r"^src/lib\.rs exports no actor$"):
        await bench.build()


async def test_build_that_waits_for_another_ends_in_time(bench: Bench) -> None:
    """A build by the same compiler that does not end is not waited for beyond the limit."""
    bench.rust("bin", WASIP2)
    compiler = await find_rust(bench.project, bench.environment, bench.variables)
    async with compiler.alone(1):
        with pytest.raises(DeadlineExceeded, match="another build of Rust"):
            async with compiler.alone(0.1):
                pass


async def test_build_whose_cache_cannot_be_written_says_which_variable_helps(bench: Bench) -> None:
    """A cache that cannot be made is an error with the setting that moves it."""
    bench.rust("bin", WASIP2)
    (bench.directory / "file").write_text("")
    compiler = await find_rust(bench.project, bench.environment, bench.variables)
    compiler = replace(compiler, home=bench.directory / "file" / "rust" / "key")

    with pytest.raises(InvalidArgument, match="cannot be written") as error:
        async with compiler.alone(1):
            pass

    assert "XDG_CACHE_HOME" in str(error.value.hint)


# ---- a compiler whose standard library is compiled here -------------------------------------


async def test_build_with_a_distributions_compiler_compiles_the_library_once(
    bench: Bench,
) -> None:
    """The library is put together as rustup lays it out, and used by every later build."""
    bench.distribution(module())

    result = await bench.build()

    libraries = bench.sysroot() / "lib" / "rustlib" / "wasm32-wasip1" / "lib"
    made = sorted(str(path.relative_to(libraries)) for path in libraries.rglob("*.*"))
    assert made == [
        "libcore-1.rlib",
        "libstd-1.rlib",
        "self-contained/crt1-command.o",
        "self-contained/crt1-reactor.o",
        "self-contained/libc.a",
        "self-contained/threads.o",
    ]
    assert (libraries / "self-contained" / "threads.o").read_text() == "1\n"
    assert result.path.read_bytes()[4:8] == b"\x0d\0\1\0", "wrapped into a component"
    first, second = bench.calls()
    assert first.endswith(
        "build --quiet --release --target wasm32-wasip1 "
        "-Zbuild-std=std,panic_abort -Zbuild-std-features="
    )
    assert 'source.crates-io.replace-with="beside"' in first
    assert second.startswith("rustc --quiet --release --target wasm32-wasip1")
    assert bench.progress == [
        "rust: compiling the standard library for wasm32-wasip1, once",
        "thing: compiling with cargo 1.96.0 for wasm32-wasip1",
    ]

    bench.write("src/lib.rs", "// changed")
    await bench.build()
    assert len(bench.calls()) == 3
    assert {path.name for path in bench.sysroot().parent.iterdir()} == {
        "lock",
        "sysroot",
        "target",
    }


async def test_build_allows_unstable_options_for_the_library_alone(bench: Bench) -> None:
    """What a user writes is compiled as by any stable compiler, with the newest linker."""
    bench.distribution(module())

    await bench.build()

    assert bench.seen("std")["RUSTC_BOOTSTRAP"] == "1"
    seen = bench.seen()
    assert "RUSTC_BOOTSTRAP" not in seen
    flags = seen["CARGO_ENCODED_RUSTFLAGS"].split("\x1f")
    assert f"--sysroot={bench.sysroot()}" in flags
    assert f"-Clinker={bench.directory}/usr/wasm-ld-22" in flags
    threads = bench.sysroot() / "lib/rustlib/wasm32-wasip1/lib/self-contained/threads.o"
    assert f"-Clink-arg={threads}" in flags


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("PLEXSPACES_TEST_FAIL", "does not compile:\nno core"),
        (
            "PLEXSPACES_TEST_FAIL_THREADS",
            "thread functions of Rust's standard library do not compile:\nno linkage",
        ),
    ],
)
async def test_build_whose_library_does_not_compile_leaves_nothing(
    bench: Bench, fails: str, said: str
) -> None:
    """A half of a library is never used."""
    bench.distribution(module())
    bench.variables[fails] = "1"

    with pytest.raises(Internal, match=said) as error:
        await bench.build()

    assert RUSTUP_INSTALL in str(error.value.hint)
    assert [path.name for path in (bench.directory / "cache").glob("rust/*/*")] == ["lock"]


async def test_build_forgets_compilers_that_are_gone(bench: Bench) -> None:
    """What was kept for a compiler not used for a month goes when another is made ready."""
    old = bench.directory / "cache" / "rust" / "old"
    old.mkdir(parents=True)
    (old / "lock").write_text("")
    os.utime(old / "lock", (0, 0))
    bench.distribution(module())

    await bench.build()

    assert not old.exists()


@pytest.mark.parametrize(
    ("made", "said", "hint"),
    [
        (module(imported="0.2.0"), r"uses plexspaces:application@0\.2\.0, .* 0\.1\.0", "cp -r "),
        (module(exported="0.2.0"), r"uses plexspaces:application@0\.2\.0, .* 0\.1\.0", "cp -r "),
        (assemble("(module)"), r"src/lib\.rs exports no actor", "plexspaces::export!"),
    ],
)
async def test_build_of_a_module_of_another_contract_is_refused(
    bench: Bench, made: bytes, said: str, hint: str
) -> None:
    """The wrapper says which version was spoken, and the hint how to come to this one."""
    bench.distribution(made)

    with pytest.raises(InvalidArgument, match=said) as error:
        await bench.build()

    assert hint in str(error.value.hint)


async def test_install_makes_the_library_without_a_project(bench: Bench) -> None:
    """`toolchain install rust` does what the first build would; again it does nothing."""
    bench.distribution(module())
    for _ in range(2):
        place = await install(bench.environment, progress=bench.progress.append)
        assert place == bench.sysroot()

    assert len(bench.calls()) == 1


# ---- the manifest ---------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("manifest", "name", "entry"),
    [
        ('[package]\nname = "a-b"', "a_b", "src/lib.rs"),
        ('[package]\nname = "a-b"\n[lib]\nname = "c"\npath = "d.rs"', "c", "d.rs"),
    ],
)
def test_library_is_named_as_cargo_names_it(
    tmp_path: Path, manifest: str, name: str, entry: str
) -> None:
    """The artifact's name and the first file come from the manifest."""
    write(tmp_path / "Cargo.toml", manifest)
    write(tmp_path / entry, "")

    found = library(tmp_path)

    assert (found.name, found.entry) == (name, tmp_path / entry)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("[package", r"Cargo\.toml is not TOML: Expected '\]'"),
        ("[workspace]\nmembers = []", r"has no \[package\] with a name"),
        ('[package]\nname = "a"', r"has no src/lib\.rs"),
    ],
)
def test_library_of_what_has_none_says_why(tmp_path: Path, manifest: str, said: str) -> None:
    """A workspace, a program and a broken file are errors with the fact."""
    write(tmp_path / "Cargo.toml", manifest)

    with pytest.raises(InvalidArgument, match=said):
        library(tmp_path)


def test_outside_finds_what_is_compiled_with_the_project(tmp_path: Path) -> None:
    """Directories that dependencies name, at any distance, outside of the project."""
    project = tmp_path / "project"
    write(
        project / "Cargo.toml",
        '[dependencies]\nnear = { path = "near" }\nfar = { path = "../far" }\nserde = "1"\n'
        "[target.'cfg(unix)'.dependencies]\ncond = { path = \"../cond\" }\n"
        '[dev-dependencies]\ntests = { path = "../tests" }\n'
        '[patch.crates-io]\nserde = { path = "../patched" }\n',
    )
    write(project / "near" / "Cargo.toml", '[dependencies]\nfarther = { path = "../../farther" }')
    write(tmp_path / "far" / "Cargo.toml", '[dependencies]\nback = { path = "../project" }')
    for name in ("cond", "tests", "patched", "farther"):
        write(tmp_path / name / "Cargo.toml", "")

    assert outside(project) == [tmp_path / n for n in ("cond", "far", "farther", "patched")]


def test_outside_of_a_member_is_its_workspace(tmp_path: Path) -> None:
    """The manifest and lock file of a workspace decide, so that all of it counts."""
    write(tmp_path / "Cargo.toml", '[workspace]\nmembers = ["member"]')
    write(tmp_path / "other" / "Cargo.toml", "")
    write(tmp_path / "member" / "Cargo.toml", '[dependencies]\nother = { path = "../other" }')

    assert workspace(tmp_path / "member") == tmp_path
    assert outside(tmp_path / "member") == [tmp_path]


def test_sources_leave_out_what_cargo_made(tmp_path: Path) -> None:
    """Cargo's target directory is marked as a cache, wherever it lies."""
    write(tmp_path / "target" / "CACHEDIR.TAG", "")
    write(tmp_path / "target" / "x.rs", "")
    write(tmp_path / "src" / "target" / "x.rs", "")

    assert [source.relative for source in read_sources(tmp_path)] == ["src/target/x.rs"]


# ---- the SDK --------------------------------------------------------------------------------


def test_sdk_holds_the_assembled_contract() -> None:
    """The section for the linker of wasm32-wasip2 is what its text says."""
    text = (ROOT / "sdk/rust/contract.wat").read_text()

    assembled = assemble(text)

    assert (ROOT / "sdk/rust/src/contract.component-type").read_bytes() == assembled


def test_sdk_speaks_of_everything_in_the_contract() -> None:
    """Whatever is added to wit/ must be added to the SDK, except HTTP: Rust has `wasi:http`."""
    wit = (ROOT / "wit/application.wit").read_text()
    wit = re.sub(r"//.*", "", wit)
    wit, without = re.subn(r"interface http \{.*?\n\}", "", wit, flags=re.DOTALL)
    assert without == 1
    text = (ROOT / "sdk/rust/contract.wat").read_text()

    names = re.findall(r"([a-z0-9-]+): func", wit) + re.findall(r"(?:[(,]|\s)([a-z-]+):\s", wit)
    assert {"init", "ask", "delete", "timeout-ms", "retryable"} <= set(names)
    for name in names:
        assert f'"{name}"' in text, name
    for interface in re.findall(r"interface ([a-z]+)", wit):
        assert f'"{CONTRACT}/{interface}@0.1.0"' in text
