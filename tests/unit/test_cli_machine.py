"""`doctor`, `config show` and `build` hand on what their rooms say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command import Command

from plexspaces_node.cli import build as building
from plexspaces_node.cli import doctor as machine
from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.model import LEVELS, ArtifactKind, Language
from plexspaces_node.settings import settings
from plexspaces_node.toolchains import BuildResult
from plexspaces_node.vm.driver import Driver

FINE = Finding("Python", "Python", True, "3.12")
BROKEN = Finding("Node", "address", False, "127.0.0.1:9000: in use", "ss -ltnp")


def test_config_show_when_asked_then_every_setting_its_value_and_origin(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each value came from is beside it."""
    (tmp_path / "release.toml").write_text("[limits]\nmailbox = 7\n")
    monkeypatch.setenv("PLEXSPACES_NODE_ID", "n-7")
    lines = command("config", "show").text.splitlines()
    keys = [line.lstrip("#").partition(" =")[0] for line in lines]
    assert keys == list(settings())
    shown = {key: " ".join(line.split()) for key, line in zip(keys, lines, strict=True)}
    assert shown["limits.mailbox"].startswith("limits.mailbox = 7 # release.toml (")
    assert shown["node.id"] == 'node.id = "n-7" # environment PLEXSPACES_NODE_ID'
    assert shown["node.address"] == 'node.address = "127.0.0.1:9000" # default'
    assert shown["node.allow_remote"] == "node.allow_remote = false # default"
    assert shown["firecracker.binary_path"] == "#firecracker.binary_path = # default"


def test_config_show_when_for_programs_then_values_keep_their_types(command: Command) -> None:
    """Numbers are numbers, what is not set is null."""
    shown = command("config", "show", "--json").json
    assert shown["limits.mailbox"] == {"value": 1024, "origin": "default"}
    assert shown["firecracker.binary_path"]["value"] is None


def test_config_show_when_the_file_is_not_there_then_status_2(command: Command) -> None:
    """A file that was named must exist."""
    ran = command("config", "show", "--config", "none.toml")
    assert (ran.status, ran.stdout) == (2, b"")
    assert "'none.toml' does not exist" in ran.stderr


@pytest.mark.parametrize(("findings", "status"), [([FINE], 0), ([FINE, BROKEN], 1)])
def test_doctor_when_examined_then_the_status_tells_whether_a_node_can_run(
    command: Command, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int
) -> None:
    """A script can ask the doctor, and a person can read it."""
    examined: list[str] = []

    async def examine(config: Config, drivers: Sequence[Driver]) -> list[Finding]:
        examined.extend(driver.name for driver in drivers)
        return findings

    monkeypatch.setattr(machine, "examine", examine)
    ran = command("doctor")
    assert ran.status == status
    assert "✓ Python  3.12" in ran.text
    assert examined == [level for level in LEVELS if level in examined]
    assert {"qemu", "process"} <= set(examined)
    ran = command("doctor", "--json")
    assert (ran.status, ran.json["ok"]) == (status, status == 0)


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (None, 0), (False, 1)])
def test_doctor_when_asked_for_security_then_only_that_is_checked(
    command: Command, monkeypatch: pytest.MonkeyPatch, ok: bool | None, status: int
) -> None:
    """A warning is counted and is no failure."""

    async def examine_security(config: Config) -> list[Finding]:
        return [Finding("CPU", "SMT", ok, "as it is", None if ok else "nosmt")]

    monkeypatch.setattr(machine, "examine_security", examine_security)
    ran = command("doctor", "--security")
    assert ran.status == status
    end = {
        True: "✓ nothing is open that should be closed; 0 warnings\n",
        None: "✓ nothing is open that should be closed; 1 warning\n",
        False: "✗ 1 required check failed\n",
    }
    assert ran.text.endswith(end[ok])
    assert command("doctor", "--security", "--json").json["ok"] is (ok is not False)


@pytest.mark.parametrize(("cached", "said"), [(True, " in 24 ms, unchanged"), (False, " in 24 ms")])
def test_build_when_done_then_what_was_made_is_shown(
    command: Command, monkeypatch: pytest.MonkeyPatch, cached: bool, said: str
) -> None:
    """The file, its language, kind and size on stdout; the steps on stderr."""

    async def build(project: Path, output: Path | None, *, progress: object) -> BuildResult:
        assert callable(progress)
        progress("calc: compiling")
        assert output is not None
        kind, language = ArtifactKind.ACTOR, Language.PYTHON
        return BuildResult(output, language, kind, 3 * 1024 * 1024, 24_000_000, cached)

    monkeypatch.setattr(building, "build_project", build)
    Path("calc").mkdir()
    ran = command("build", "calc", "-o", "calc.wasm")
    assert ran.text == f"✓ Built calc.wasm (python actor, 3.0 MiB){said}\n"
    assert ran.stderr == "calc: compiling\n"
    assert command("build", "calc", "-o", "calc.wasm", "--json").json["path"] == "calc.wasm"


def test_build_when_there_is_no_project_then_its_room_says_so(
    command: Command, tmp_path: Path
) -> None:
    """An empty directory is no project."""
    ran = command("build", tmp_path)
    assert ran.status in (1, 2)
    assert ran.stdout == b""
    assert ran.stderr.startswith("error: ")
