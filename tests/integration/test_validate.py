"""What scripts/validate.sh promises: a tick a step, a status that tells, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Validated:
    """How the script ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def ticked(self) -> list[str]:
        """The names of the steps that passed."""
        lines = self.stdout.splitlines()
        return [line[2:30].strip() for line in lines if line.startswith("✓ ") and "  " in line]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="px-") as directory:
        yield Path(directory)


def validate(scratch: Path, *arguments: str, more: Mapping[str, str] | None = None) -> Validated:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_")}
    process = subprocess.Popen(
        [str(ROOT / "scripts" / "validate.sh"), *arguments],
        env=variables | {"TMPDIR": str(scratch)} | dict(more or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Validated(process.returncode, stdout, stderr)


def test_validate_at_process_isolation_ticks_every_step_and_leaves_nothing(scratch: Path) -> None:
    """The checkout is validated with real builds, a real node and real messages."""
    done = validate(
        scratch, "--isolation", "process", "--operations", "1", "--languages", "python,typescript"
    )

    assert done.status == 0, done.stdout + done.stderr
    assert done.ticked == [
        "prerequisites",
        "environment",
        "native programs",
        "build python-calculator",
        "build python-hello-http",
        "build ts-greeter",
        "build ts-hello-http",
        "guest image",
        "empty node",
        "workload",
        "deploy",
        "listing",
        "undeploy",
        "empty VM + TypeScript",
        "end of the node",
    ]
    assert "✓ 15 steps passed" in done.stdout
    assert list(scratch.iterdir()) == []


def test_validate_when_a_step_fails_then_its_words_are_shown_and_nothing_is_left(
    scratch: Path,
) -> None:
    """A node that cannot start ends the validation with its own error and status 1."""
    done = validate(
        scratch,
        *("--isolation", "process", "--languages", "python"),
        more={"PLEXSPACES_NODE_LOG_LEVEL": "loud"},
    )

    assert done.status == 1
    assert "✗ empty node" in done.stdout
    assert "node.log_level" in done.stderr
    assert "validation failed at: empty node" in done.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fast"], "there is no option --fast"),
        (["--operations", "0"], "--operations takes a number above 0"),
        (["--operations"], "--operations has no value"),
        (["--isolation", "chroot"], "unknown isolation level 'chroot'"),
        (["--languages", "python,cobol"], "there is no language 'cobol'"),
        (["--languages", "go"], "--languages must have python"),
    ],
)
def test_validate_when_called_wrongly_then_it_says_so_and_starts_nothing(
    scratch: Path, arguments: list[str], said: str
) -> None:
    """A wrong option costs status 2, one line and a hint."""
    done = validate(scratch, *arguments)

    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert "hint: scripts/validate.sh --help" in done.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("script", ["validate.sh --docker", "test-docker.sh"])
def test_docker_scripts_when_no_engine_answers_then_they_say_what_helps(
    scratch: Path, script: str
) -> None:
    """Without an engine there is status 1 and the way to do without, and no build is tried."""
    name, *arguments = script.split()
    done = subprocess.run(
        [str(ROOT / "scripts" / name), *arguments],
        env={**os.environ, "TMPDIR": str(scratch), "DOCKER_HOST": f"unix://{scratch}/no.sock"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "Docker engine" in done.stderr or "no docker command" in done.stderr
    assert "hint: " in done.stderr
    assert "scripts/test-docker.sh --buildah" in done.stderr
    assert list(scratch.iterdir()) == []
