"""How a checkout's native programs are built: with which cargo, once, and kept for the next time.

The compilers here are shell scripts that say and write what real ones would.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from native_build import cargo as rust
from native_build.cache import KEPT_BUILDS, UNUSED_S, Cache
from native_build.faults import Fault
from native_build.programs import programs
from native_build.progress import follow
from plexspaces_node.programs import (
    AGENT,
    COMPILER,
    INIT,
    PROGRAMS,
    programs_cache,
    source_digest,
)

ROOT = Path(__file__).parents[2]
MANIFEST = '[workspace.package]\nrust-version = "1.95"\n'
# Builds what it is asked for with `-p`, and counts how often.
CARGO = """
echo "$@" >>"$COUNT"
echo "    Updating index" >&2
printf '   Compiling one\\r    Building [==>   ] 1/2: two\\r' >&2
mkdir -p "$CARGO_TARGET_DIR/{target}/release"
for last; do :; done
echo "$last $RUSTFLAGS" >"$CARGO_TARGET_DIR/{target}/release/$last"
"""

Toolchain = Callable[..., Path]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of nothing but sources, and a user whose cache is empty and whose PATH too."""
    source_digest.cache_clear()
    root = tmp_path / "checkout"
    (root / "agent" / "src").mkdir(parents=True)
    (root / "agent" / "Cargo.toml").write_text(MANIFEST)
    (root / "agent" / "src" / "main.rs").write_text("fn main() {}")
    for variable in ("CARGO_HOME", "CARGO_TARGET_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    (tmp_path / "shell").mkdir()
    for name in ("sh", "mkdir"):
        (tmp_path / "shell" / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path / "shell"))
    return root


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> Toolchain:
    """Put a cargo, a rustc of some version and a C compiler first on the PATH."""

    def make(version: str = "1.96.0", cargo: str = CARGO, place: str = "tools") -> Path:
        directory = tmp_path / place
        directory.mkdir(exist_ok=True)
        (tmp_path / "libc.a").write_text("!<arch>")
        scripts = {
            "rustc": f"echo 'rustc {version} (abc 2026-01-01)'; echo 'release: {version}'",
            "cargo": cargo.replace("{target}", rust.TARGET),
            "cc": f"echo {tmp_path / 'libc.a'}",
        }
        for name, script in scripts.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        return directory

    return make


CARGOS = 2 * len(PROGRAMS)
"""How many run for one build: each program is cleaned and built."""


def builds(tmp_path: Path) -> list[str]:
    """The arguments of every cargo that ran."""
    count = tmp_path / "count"
    return count.read_text().splitlines() if count.exists() else []


def quietly(_: str) -> None:
    """Tell nobody."""


class TestPrograms:
    def test_programs_when_never_built_then_each_is_built_alone_and_all_are_kept(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path
    ) -> None:
        """One cargo a program, locked, static and for a named target; what they made is kept.

        What another checkout has left of the program is removed before.
        """
        toolchain()
        said: list[str] = []
        kept = programs(checkout, may_install=False, told=said.append)

        common = f"--release --locked --target {rust.TARGET}"
        assert builds(tmp_path) == [
            f"{command} {common} {package}"
            for package in (
                f"-p {AGENT}",
                f"-p {COMPILER}",
                f"--manifest-path init/Cargo.toml -p {INIT}",
            )
            for command in ("clean", "build")
        ]
        assert kept.parent == programs_cache()
        assert kept.name.startswith(source_digest(checkout))
        for name in PROGRAMS:
            assert (kept / name).read_text() == f"{name} -C target-feature=+crt-static\n"
            assert os.access(kept / name, os.X_OK)
        assert said[0] == f"building {AGENT}, {COMPILER}, {INIT} with rustc 1.96.0"
        assert said[-1].endswith(f" MB in {kept}")

    def test_programs_when_another_clone_has_the_same_sources_then_nothing_is_built(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path
    ) -> None:
        """The cache knows sources by what they are and not by where they are."""
        toolchain()
        kept = programs(checkout, may_install=False, told=quietly)
        clone = tmp_path / "clone"
        shutil.copytree(checkout, clone)
        before = builds(tmp_path)
        said: list[str] = []

        assert programs(clone, may_install=False, told=said.append) == kept
        assert (builds(tmp_path), said) == (before, [])

    @pytest.mark.parametrize("what", ["sources", "compiler", "C library"])
    def test_programs_when_something_they_are_made_of_changes_then_they_are_built_again(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path, what: str
    ) -> None:
        """Sources, compiler and the library that is linked in are each part of the key."""
        toolchain()
        first = programs(checkout, may_install=False, told=quietly)
        if what == "sources":
            (checkout / "agent" / "src" / "main.rs").write_text("fn main() { loop {} }")
            source_digest.cache_clear()
        elif what == "compiler":
            toolchain("1.97.1")
        else:
            (tmp_path / "libc.a").write_text("!<arch> with a hole mended")

        assert programs(checkout, may_install=False, told=quietly) != first
        assert len(builds(tmp_path)) == 2 * CARGOS
        assert first.is_dir()

    def test_programs_when_there_is_no_cargo_but_they_were_built_then_they_are_found(
        self, checkout: Path, toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever has what cargo would make needs no cargo."""
        tools = toolchain()
        kept = programs(checkout, may_install=False, told=quietly)
        shutil.rmtree(tools)
        assert programs(checkout, may_install=False, told=quietly) == kept

    def test_programs_when_a_kept_one_was_removed_then_all_are_built_again(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path
    ) -> None:
        """Half a build does not count."""
        toolchain()
        kept = programs(checkout, may_install=False, told=quietly)
        (kept / PROGRAMS[0]).unlink()
        assert programs(checkout, may_install=False, told=quietly) == kept
        assert os.access(kept / PROGRAMS[0], os.X_OK)

    def test_programs_when_cargo_fails_then_its_words_are_told_and_nothing_is_kept(
        self, checkout: Path, toolchain: Toolchain
    ) -> None:
        """What the compiler says is shown, without the lines of its progress."""
        toolchain(cargo="echo '   Compiling a v1' >&2; echo 'error[E0425]: no value' >&2; exit 101")
        with pytest.raises(Fault) as caught:
            programs(checkout, may_install=False, told=quietly)
        first, second, hint = str(caught.value).splitlines()
        assert first == "error: cargo could not build the agent"
        assert second == "error[E0425]: no value"
        assert hint.startswith(f"hint: to see all of it: cd {checkout / 'agent'} && ")
        assert list(programs_cache().glob(f"*/{PROGRAMS[0]}")) == []

    def test_programs_when_the_sources_change_meanwhile_then_nothing_is_kept(
        self, checkout: Path, toolchain: Toolchain
    ) -> None:
        """What was compiled of two states of the sources has the digest of neither."""
        toolchain(cargo=CARGO + f"echo 'fn other() {{}}' >>{checkout}/agent/src/main.rs")
        with pytest.raises(Fault, match="changed while they were compiled"):
            programs(checkout, may_install=False, told=quietly)
        assert list(programs_cache().glob(f"*/{PROGRAMS[0]}")) == []

    def test_programs_when_two_build_at_once_then_one_builds_and_the_other_waits(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path
    ) -> None:
        """The second takes what the first has made."""
        toolchain()
        fork = multiprocessing.get_context("fork")
        with fork.Pool(2) as pool:
            kept = pool.starmap(_built, [(checkout,), (checkout,)])
        assert kept[0] == kept[1]
        assert len(builds(tmp_path)) == CARGOS

    def test_programs_when_the_cache_cannot_be_written_then_the_hint_names_the_variable(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A person learns which place it was, and how to name another."""
        toolchain()
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(Fault, match="cannot be written") as caught:
            programs(checkout, may_install=False, told=quietly)
        assert "XDG_CACHE_HOME" in str(caught.value.hint)


def _built(checkout: Path) -> Path:
    return programs(checkout, may_install=False, told=quietly)


class TestCargo:
    def test_find_when_there_is_none_then_a_way_to_one_is_named(self, checkout: Path) -> None:
        """What is missing, from which version on it serves, and what helps."""
        with pytest.raises(Fault) as caught:
            rust.find(checkout / "agent")
        assert str(caught.value) == (
            "error: the agent is built by Rust 1.95 or newer: cargo and rustc are not installed\n"
            "hint: install Rust, see https://rustup.rs"
        )

    def test_find_when_it_is_too_old_then_its_version_is_told(
        self, checkout: Path, toolchain: Toolchain
    ) -> None:
        """A person sees which compiler was meant."""
        tools = toolchain("1.63.0")
        with pytest.raises(Fault, match=f"{tools / 'rustc'} is 1.63"):
            rust.find(checkout / "agent")

    def test_find_when_the_first_is_too_old_then_the_next_is_taken(
        self, checkout: Path, toolchain: Toolchain
    ) -> None:
        """A distribution's old compiler does not hide a newer one."""
        new = toolchain("1.95.0", place="new")
        toolchain("1.94.9", place="old")
        assert rust.find(checkout / "agent").directory == new

    def test_find_when_the_newest_is_a_hundred_versions_on_then_numbers_are_compared(
        self, checkout: Path, toolchain: Toolchain
    ) -> None:
        """1.100 is newer than 1.95."""
        toolchain("1.100.0")
        assert rust.find(checkout / "agent").version.startswith("rustc 1.100.0")

    def test_find_when_glibc_cannot_be_linked_then_its_package_is_named(
        self, checkout: Path, toolchain: Toolchain, tmp_path: Path
    ) -> None:
        """A compiler answers with the bare name where it has no such file."""
        (toolchain() / "cc").write_text("#!/bin/sh\necho libc.a\n")
        with pytest.raises(Fault, match="glibc's static library is not installed") as caught:
            rust.find(checkout / "agent")
        assert "apt-get install gcc libc6-dev" in str(caught.value.hint)


class TestCache:
    def test_store_when_many_were_built_then_those_unused_for_long_go(self, tmp_path: Path) -> None:
        """The last ones stay whatever their age, and what was used today stays too."""
        cache = Cache(tmp_path / "kept")
        made = tmp_path / "made"
        made.mkdir()
        for name in PROGRAMS:
            (made / name).write_text(name)
        with cache.alone(quietly):
            stored = [cache.store(f"{n:016}", "t", made, {}) for n in range(KEPT_BUILDS + 3)]
            for age, path in enumerate(reversed(stored)):
                last = path.stat().st_mtime - (0 if path is stored[0] else UNUSED_S + 60 + age)
                os.utime(path, (last, last))
            (cache.directory / "new-abandoned").mkdir()
            newest = cache.store("f" * 16, "t", made, {})
        left = {path for path in cache.directory.iterdir() if path.is_dir()}
        # One place of the kept ones is the newest's, one is that which was used today.
        assert left == {newest, stored[0], *stored[-(KEPT_BUILDS - 2) :]}

    def test_target_when_the_toolchain_changes_then_what_it_left_goes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another compiler uses nothing of the one before, and gigabytes would pile up."""
        monkeypatch.delenv("CARGO_TARGET_DIR", raising=False)
        cache = Cache(tmp_path / "kept")
        with cache.alone(quietly):
            left = cache.target("one") / "left"
            left.touch()
            assert (cache.target("one") / "left").exists()
            assert not (cache.target("two") / "left").exists()

    def test_target_when_the_user_names_one_then_it_is_taken_and_never_emptied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable means what it means to cargo."""
        monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path))
        assert Cache(tmp_path / "kept").target("one") == tmp_path


def test_follow_when_cargo_counts_then_its_steps_are_told(tmp_path: Path) -> None:
    """The bar is read for its numbers, wherever its line ends."""
    said: list[str] = []
    script = "printf 'Building [=> ] 3/9: a\\rBuilding [==> ] 4/9: b\\nFinished\\n' >&2"
    follow(["sh", "-c", script], cwd=tmp_path, variables=dict(os.environ), told=said.append)
    assert said[-1] == "4 of 9 crates"


def test_script_when_asked_for_help_then_it_needs_nothing_installed(tmp_path: Path) -> None:
    """The system's Python runs it, without any package."""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _BARE, str(ROOT)],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: scripts/agent")


_BARE = """
import runpy, sys
root = sys.argv.pop(1)
sys.path[:0] = [root + "/agent", root + "/src"]
sys.argv = ["scripts/agent", "--help"]
runpy.run_module("native_build", run_name="__main__")
"""
