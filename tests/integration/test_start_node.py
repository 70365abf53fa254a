"""`start-node` as a user runs it, where it cannot start: what it says and what it leaves."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.patience import patient

from plexspaces_node.programs import cache_home

COMMAND = (sys.executable, "-m", "plexspaces_node.cli.main", "start-node", "--node-id", "n-1")


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def environment(home: Path) -> dict[str, str]:
    """Nothing of this machine's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLEXSPACES_", "XDG_"))}
    # But where the agent is that was built for this checkout.
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(cache_home()), "COLUMNS": "80"}


def start(home: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `start-node` in a process of its own: what libraries print goes past Python."""
    return subprocess.run(
        [*COMMAND, *flags],
        env={**environment(home), **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=patient(60.0),
        check=False,
    )


def test_start_when_the_port_is_taken_then_two_lines_and_nothing_is_left(
    tmp_path: Path, taken: str
) -> None:
    """Only our error and its hint: no line of a library, no directory made for nothing."""
    ran = start(tmp_path, "--address", taken, "--isolation", "process", "--data-dir", "deep/down")
    assert ran.returncode == 1
    assert ran.stderr == (
        f"error: cannot listen on {taken}: the port is in use\n"
        "hint: choose another with --address 127.0.0.1:9001, or see what uses it: ss -ltnp\n"
    )
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("nobody", ["reads", "is there", "was ever there"])
def test_node_when_nobody_reads_its_stderr_then_it_starts_and_ends_as_always(
    tmp_path: Path, nobody: str
) -> None:
    """What becomes of its log is no reason for a node to wait, or to end with another status."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    if nobody != "reads":
        os.close(reader)
    parent = Path(tempfile.mkdtemp(prefix="px-"))
    flags = ("--address", "127.0.0.1:0", "--isolation", "process", "--data-dir", parent / "data")
    closing = ("sh", "-c", 'exec "$@" 2>&-', "sh") if nobody == "was ever there" else ()
    with subprocess.Popen(
        [*closing, *COMMAND, *flags],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    ) as node:
        os.close(writer)
        given_up = threading.Timer(patient(30.0), node.kill)
        given_up.start()
        assert node.stdout is not None
        for line in node.stdout:
            if line.startswith("  Isolation:"):
                node.terminate()
        status = node.wait()
        given_up.cancel()
    if nobody == "reads":
        os.close(reader)
    shutil.rmtree(parent)
    assert status == 0


def test_node_raises_its_own_limit_on_descriptors(tmp_path: Path) -> None:
    """The usual soft limit is of another age: it would be reached by 250 applications."""
    parent = Path(tempfile.mkdtemp(prefix="px-"))
    flags = ("--address", "127.0.0.1:0", "--isolation", "process", "--data-dir", parent / "data")
    with subprocess.Popen(
        ["sh", "-c", 'ulimit -Sn 512; exec "$@"', "sh", *COMMAND, *flags],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        given_up = threading.Timer(patient(30.0), node.kill)
        given_up.start()
        assert node.stdout is not None
        found = []
        for line in node.stdout:
            if line.startswith("  Isolation:"):
                found = Path(f"/proc/{node.pid}/limits").read_text().splitlines()
                node.terminate()
        given_up.cancel()
    shutil.rmtree(parent)
    [soft, hard] = next(line.split()[3:5] for line in found if line.startswith("Max open files"))
    assert soft == hard


def test_start_when_the_port_of_the_metrics_is_taken_then_nothing_is_left(
    tmp_path: Path, taken: str
) -> None:
    """What goes wrong late is undone as what goes wrong early."""
    ran = start(
        tmp_path,
        *("--address", "127.0.0.1:0", "--isolation", "process", "--data-dir", "deep/down"),
        PLEXSPACES_NODE_METRICS_ADDRESS=taken,
        # What this host lacks for CPU shares would be in the log before.
        PLEXSPACES_NODE_LOG_LEVEL="error",
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: cannot serve metrics on {taken}: ")
    assert ran.stderr.count("\n") == 2
    assert list(tmp_path.rglob("*")) == []


def test_start_when_the_isolation_level_cannot_be_used_then_nothing_is_left(
    tmp_path: Path,
) -> None:
    """A level without its program is refused, and what was made for its trial goes again."""
    # Given, since a socket's path has at most 107 bytes.
    parent = Path(tempfile.mkdtemp(prefix="px-"))
    ran = start(
        tmp_path,
        *("--address", "127.0.0.1:0", "--isolation", "firecracker"),
        *("--data-dir", str(parent / "data")),
        PLEXSPACES_FIRECRACKER_BIN=str(tmp_path / "none"),
    )
    assert ran.returncode == 1
    assert "error: isolation level 'firecracker' does not work here" in ran.stderr
    assert list(tmp_path.rglob("*")) == []
    parent.rmdir()


def test_node_when_started_by_a_service_manager_then_it_tells_how_it_is(tmp_path: Path) -> None:
    """Ready once it serves, alive in between, stopping as soon as it is asked to."""
    parent = Path(tempfile.mkdtemp(prefix="px-"))
    flags = ("--address", "127.0.0.1:0", "--isolation", "process", "--data-dir", parent / "data")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(parent / "notify"))
        manager.settimeout(patient(60))
        told = {"NOTIFY_SOCKET": str(parent / "notify"), "WATCHDOG_USEC": "200000"}
        with subprocess.Popen(
            [*COMMAND, *flags],
            env={**environment(tmp_path), **told, "PLEXSPACES_HTTP_ADDRESS": "off"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as node:
            try:
                heard: list[str] = []
                while not heard or not heard[-1].startswith("READY=1"):
                    heard.append(manager.recv(4096).decode())
                assert set(heard[:-1]) == {"WATCHDOG=1"}
                assert "\nSTATUS=serving at 127.0.0.1:" in heard[-1]
                # The last before it serves may wait in the socket: two are from afterwards.
                assert [manager.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2
                node.terminate()
                while (said := manager.recv(4096).decode()) == "WATCHDOG=1":
                    pass
                assert said.startswith("STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\nSTATUS=")
                assert node.wait(patient(30)) == 0
            finally:
                node.kill()
    shutil.rmtree(parent)
