"""What the images are made with, as far as it needs no Docker."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.patience import patient

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node

ROOT = Path(__file__).parent.parent.parent
VERSION = "9.9.9"
PROGRAMS = ("firecracker", "jailer")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A release as its makers pack it, of programs that are only names."""
    path = tmp_path / "release.tgz"
    with tarfile.open(path, "w:gz") as packed:
        for program in (*PROGRAMS, "rebase-snap"):
            release = f"v{VERSION}-{platform.machine()}"
            member = tarfile.TarInfo(f"release-{release}/{program}-{release}")
            member.size = len(program)
            packed.addfile(member, io.BytesIO(program.encode()))
    return path


def fetch(into: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    into.mkdir()
    return subprocess.run(
        [str(ROOT / "docker" / "fetch-firecracker"), *arguments],
        cwd=into,
        env={**os.environ, "TMPDIR": str(into.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def checksum(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@needs_curl
@pytest.mark.parametrize("version", [VERSION, f"v{VERSION}"])
def test_fetch_firecracker_when_the_checksum_matches_then_both_programs_are_there(
    archive: Path, tmp_path: Path, version: str
) -> None:
    """Firecracker and jailer of the release are left, executable, and nothing else of it."""
    done = fetch(tmp_path / "out", version, checksum(archive), archive.as_uri())

    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "out").iterdir())
    assert [(one.name, one.read_text()) for one in made] == [(name, name) for name in PROGRAMS]
    assert all(os.access(one, os.X_OK) for one in made)


@needs_curl
@pytest.mark.parametrize(
    ("sha256", "said"),
    [
        ("", "no checksum was given"),
        ("latest", "is no SHA-256"),
        ("0" * 64, "has SHA-256"),
    ],
)
def test_fetch_firecracker_when_the_checksum_is_not_right_then_nothing_is_unpacked(
    archive: Path, tmp_path: Path, sha256: str, said: str
) -> None:
    """No checksum, no checksum's form and another archive's checksum all end the build."""
    done = fetch(tmp_path / "out", VERSION, sha256, archive.as_uri())

    assert done.returncode == 1
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_fetch_firecracker_when_the_version_is_empty_then_it_is_left_out(tmp_path: Path) -> None:
    """An image without Firecracker is asked for by an empty version, and fetches nothing."""
    done = fetch(tmp_path / "out", "", "")

    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "out").iterdir()) == []


def test_compose_and_dockerfile_have_the_same_defaults() -> None:
    """Who builds with Compose gets what who builds with docker gets."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    [arguments] = re.findall(r"args: &args\n((?: {8}.*\n)+)", (ROOT / "compose.yaml").read_text())

    defaults = re.findall(r"(\w+): \$\{\1:?-(.*)\}", arguments)
    assert sorted(defaults) == sorted(re.findall(r"^ARG (\w+)=(.*)$", dockerfile, re.M))


async def health(address: str, **more: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(ROOT / "docker" / "health.py")),
        env={"PLEXSPACES_NODE_ADDRESS": address, "http_proxy": "http://127.0.0.1:9", **more},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(patient(60)):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_health_check_tells_a_node_that_serves_from_none(node: Node) -> None:
    """A serving node is healthy, also by a wildcard address; a port nobody holds is not."""
    port = node.address.rpartition(":")[2]

    assert await health(f"0.0.0.0:{port}") == (0, f"0.0.0.0:{port}: SERVING\n")
    status, said = await health("127.0.0.1:9")
    assert status == 1
    assert "UNAVAILABLE" in said


async def test_health_check_when_the_node_has_tokens_then_it_asks_by_the_socket(
    node: Node, data_dir: Path
) -> None:
    """Where it needs none; by TCP it is told that it needs one."""
    async with NodeClient(node.address) as owner:
        await owner.create_token("ops", scopes=["admin"])
    socket = f"unix:{data_dir}/node.sock"
    asked = await health(node.address, PLEXSPACES_NODE_DATA_DIR=str(data_dir))
    assert asked == (0, f"{socket}: SERVING\n")
    status, said = await health(node.address)
    assert status == 1
    assert "UNAUTHENTICATED: this node needs a token" in said
