"""Where the agent and the compiler are found, in a wheel and in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.programs import (
    AGENT,
    COMPILER,
    PROGRAMS,
    cache_home,
    checkout_of,
    find_program,
    programs_cache,
    source_digest,
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package of a checkout that has sources and nothing built."""
    package = tmp_path / "checkout" / "src" / "plexspaces_node"
    for place, content in {
        "agent/Cargo.toml": "[package]",
        "agent/Cargo.lock": "version = 4",
        "agent/src/main.rs": "fn main() {}",
        "wit/contract.wit": "package a:b;",
        "src/plexspaces_node/__init__.py": "",
    }.items():
        path = tmp_path / "checkout" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return package


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """An environment whose cache is the test's own."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def keep(variables: dict[str, str], digest: str, toolchain: str, name: str = AGENT) -> Path:
    """Put a program into the cache as a build does."""
    program = programs_cache(variables) / f"{digest}-{toolchain}" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_program_when_the_package_carries_it_then_that_one_is_taken(
    package: Path, variables: dict[str, str]
) -> None:
    """What a wheel installed wins: no checkout and no cache are asked."""
    for name in PROGRAMS:
        carried = package / "bin" / name
        carried.parent.mkdir(exist_ok=True)
        carried.touch(mode=0o755)
        assert find_program(name, package=package, variables=variables) == carried


def test_program_when_an_installation_lacks_it_then_the_hint_installs_again(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """An installed package without its programs is broken, and nothing is looked for elsewhere."""
    with pytest.raises(NotFound, match="is missing from this installation") as caught:
        find_program(AGENT, package=tmp_path / "site-packages" / "p", variables=variables)
    assert caught.value.hint == "pip install --force-reinstall plexspaces-node"


def test_program_when_a_checkout_has_built_it_then_it_comes_from_the_cache(
    package: Path, variables: dict[str, str]
) -> None:
    """Of several toolchains' builds of these sources the last one is taken, and marked as used."""
    root = package.parent.parent
    digest = source_digest(root)
    old, new = keep(variables, digest, "one"), keep(variables, digest, "two")
    os.utime(old.parent, ns=(1, 1))
    os.utime(new.parent, ns=(2, 2))

    assert find_program(AGENT, package=package, variables=variables) == new
    assert new.parent.stat().st_mtime_ns > 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_when_the_sources_are_not_built_then_the_command_is_told(
    package: Path, variables: dict[str, str], name: str
) -> None:
    """A build of other sources is not taken for this one."""
    keep(variables, "0123456789abcdef", "one", name)
    root = package.parent.parent
    with pytest.raises(NotFound, match=source_digest(root)) as caught:
        find_program(name, package=package, variables=variables)
    assert caught.value.hint == f"cd {root} && scripts/agent"


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        ("agent/src/main.rs", True),
        ("agent/Cargo.lock", True),
        ("agent/compile/src/main.rs", True),
        ("wit/contract.wit", True),
        ("agent/tests/vectors.rs", False),
        ("agent/target/release/build/out.rs", False),
        ("agent/fuzz/Cargo.toml", False),
        ("agent/examples/load.rs", False),
        ("agent/src/.main.rs.swp", False),
        ("agent/README.md", False),
    ],
)
def test_digest_when_a_file_changes_then_it_changes_with_what_is_compiled(
    package: Path, place: str, counts: bool
) -> None:
    """The digest follows what the programs are made of, and nothing else."""
    root = package.parent.parent
    before = source_digest.__wrapped__(root)
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("other content")
    assert (source_digest.__wrapped__(root) != before) is counts


def test_checkout_when_the_tests_run_from_one_then_it_is_known() -> None:
    """The package of this run lies in the checkout whose tests these are."""
    assert checkout_of() == Path(__file__).parent.parent.parent
    assert COMPILER in PROGRAMS


def test_cache_home_when_the_variable_is_relative_then_it_is_ignored() -> None:
    """The base directory specification says so."""
    assert cache_home({"XDG_CACHE_HOME": "here"}) == Path.home() / ".cache"
    assert cache_home({"XDG_CACHE_HOME": "/else"}) == Path("/else")


def test_cache_home_when_there_is_no_home_then_the_hint_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a place for caches a person is told which variable gives one."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InvalidArgument) as caught:
        cache_home({})
    assert "XDG_CACHE_HOME" in str(caught.value.hint)
