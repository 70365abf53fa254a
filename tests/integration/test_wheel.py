"""The wheel: one `pip install` without a compiler, and a machine that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.actors import probe
from support.patience import patient

from plexspaces_node.programs import PROGRAMS

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).with_name("uv")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TIMEOUT_S = 600.0


def run(
    command: Sequence[str | Path], variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env=variables,
        capture_output=True,
        text=True,
        timeout=patient(TIMEOUT_S),
        check=False,
    )


def build(out: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Build the wheel as `make wheel` does."""
    options = ("--wheel", "--no-build-isolation", "--python", sys.executable)
    return run([UV, "build", *options, "--out-dir", out, ROOT], variables)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH leads to no program at all, cargo and rustc among them."""
    empty = tmp_path_factory.mktemp("path")
    kept = ("HOME", "XDG_CACHE_HOME", "UV_CACHE_DIR", "TMPDIR", "LANG")
    certificates = {"UV_SYSTEM_CERTS": "1"} if CERTIFICATES.exists() else {}
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {**inherited, **certificates, "PATH": str(empty)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, nothing: dict[str, str]) -> Path:
    """The wheel of this checkout, whose programs `make` has built."""
    out = tmp_path_factory.mktemp("dist")
    done = build(out, nothing)
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path, nothing: dict[str, str]
) -> Path:
    """The directory of commands of an environment in which the wheel is installed, by pip."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True, symlinks=True)
    python = place / "bin" / "python"
    install: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", python]
    needed: list[str | Path] = [
        *("--no-deps", "--require-hashes"),
        *("--requirements", ROOT / "requirements-node.txt"),
    ]
    done = run([*install, *needed], nothing)
    assert done.returncode == 0, done.stdout + done.stderr
    by_pip: list[str | Path] = [python, "-I", "-m", "pip", "install", "--quiet"]
    done = run([*by_pip, "--no-deps", "--no-index", wheel], nothing)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "bin"


@pytest.fixture
def address(installed: Path, nothing: dict[str, str]) -> Iterator[str]:
    """The address of a node of the installed package; that it ends in good order is looked at."""
    with tempfile.TemporaryDirectory(prefix="px-") as data:
        flags = ("--address", "127.0.0.1:0", "--isolation", "process", "--data-dir", f"{data}/d")
        with subprocess.Popen(
            [installed / "plexspaces", "start-node", "--node-id", "wheel", *flags],
            env=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as node:
            try:
                assert node.stdout is not None
                lines = iter(node.stdout.readline, "")
                told = next((line for line in lines if line.startswith("  Address:")), None)
                assert told is not None, node.stderr.read() if node.stderr else ""
                yield told.split()[-1]
            finally:
                node.terminate()
                _, said = node.communicate(timeout=patient(60.0))
        assert node.returncode == 0, said


def test_wheel_when_built_then_it_names_its_platform_and_carries_the_programs(wheel: Path) -> None:
    """It runs on any Linux of this machine type, and pip sees that they can be executed."""
    machine = os.uname().machine
    assert wheel.stem.partition("-py3-none-")[2] == (
        f"manylinux_2_17_{machine}.manylinux2014_{machine}.musllinux_1_1_{machine}"
    )
    with zipfile.ZipFile(wheel) as packed:
        for name in PROGRAMS:
            info = packed.getinfo(f"plexspaces_node/bin/{name}")
            assert (info.external_attr >> 16) & 0o777 == 0o755
        (about,) = (name for name in packed.namelist() if name.endswith("/WHEEL"))
        assert "Root-Is-Purelib: false" in packed.read(about).decode()
        assert not [name for name in packed.namelist() if "native_build" in name]


def test_wheel_when_built_then_it_carries_the_dashboard(wheel: Path) -> None:
    """Each of its files, with the licences of those that others made."""
    source = ROOT / "src"
    ui = source / "plexspaces_node" / "node" / "http" / "ui"
    files = {path.relative_to(source).as_posix() for path in ui.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as packed:
        assert files <= set(packed.namelist())
    assert any(name.endswith("LICENSE") for name in files)


def test_wheel_when_installed_without_a_compiler_then_an_application_answers(
    installed: Path, nothing: dict[str, str], address: str, tmp_path: Path
) -> None:
    """One `pip install`, a node, a deploy and a message, and no cargo anywhere on the PATH."""
    artifact = tmp_path / "probe.wasm"
    artifact.write_bytes(probe())
    client = {**nothing, "PLEXSPACES_NODE_ADDRESS": address}
    command = installed / "plexspaces"

    deployed = run([command, "deploy", "--name", "probe", "--wasm", artifact], client)
    assert deployed.returncode == 0, deployed.stderr
    answered = run([command, "invoke", "probe", "--type", "echo", "--data", "hello"], client)
    assert (answered.returncode, answered.stdout) == (0, "hello"), answered.stderr


def test_levels_when_installed_without_a_compiler_then_they_are_measured(
    installed: Path, nothing: dict[str, str], tmp_path: Path
) -> None:
    """The probe is made of what the wheel brings."""
    variables = {**nothing, "XDG_DATA_HOME": str(tmp_path)}
    said = run([installed / "plexspaces", "advise", "--measure", "--json"], variables)
    assert said.returncode == 0, said.stderr
    assert "process" in [one["level"] for one in json.loads(said.stdout)]


def test_doctor_when_installed_then_it_finds_the_programs_of_the_wheel(
    installed: Path, nothing: dict[str, str]
) -> None:
    """What runs is what the wheel brought, not what a checkout on this machine has built."""
    said = run([installed / "plexspaces", "doctor"], nothing).stdout
    for name in PROGRAMS:
        (line,) = (line for line in said.splitlines() if f" {name} " in line)
        assert line.strip().startswith("✓")
        assert f" at {installed.parent}/lib/" in line
        assert line.endswith(f"/site-packages/plexspaces_node/bin/{name}")


def test_build_when_there_is_no_cargo_then_it_says_in_words_what_is_missing(
    tmp_path: Path, nothing: dict[str, str]
) -> None:
    """Nothing is installed behind a person's back: the build ends with the command that helps."""
    bare = {**nothing, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    uv_cache = {"UV_CACHE_DIR": str(tmp_path / "uv")}
    done = build(tmp_path / "dist", {**bare, **uv_cache})
    assert done.returncode != 0
    assert "error: the agent is built by Rust 1." in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
