"""What the doctor says of a cluster's programs: there, missing, too old, elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.doctor.clusters import check_cluster
from plexspaces_node.doctor.finding import Finding


def configured(directory: Path, **flags: object) -> Config:
    keyed = {key.replace("__", "."): value for key, value in flags.items()}
    flags_of_node = {"node.data_dir": str(directory), **keyed}
    return ConfigBootstrap.load(flags=flags_of_node, environ={"HOME": "/nonexistent"})


def server(findings: list[Finding]) -> Finding:
    (found,) = (one for one in findings if one.name == "nats-server")
    return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of which only the programs in one directory are found."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(host: Path, script: str) -> None:
    program = host / "nats-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_check_when_everything_is_there_then_their_versions(host: Path) -> None:
    """The server's version is what the server says; the client's is that of the package."""
    install(host, "echo nats-server: v2.15.1")
    findings = check_cluster(configured(host))
    assert [one.ok for one in findings] == [True, True]
    assert server(findings).detail == f"v2.15.1 at {host / 'nats-server'}"


def test_check_when_it_is_missing_then_a_fault_only_in_a_cluster(host: Path) -> None:
    """A single node needs no server, and one of a cluster is told how to install it."""
    assert server(check_cluster(configured(host))).ok is None
    needed = server(check_cluster(configured(host, cluster__name="shop")))
    assert (needed.ok, needed.hint) == (False, "pip install 'plexspaces-node[cluster]'")
    (host / "cluster").mkdir()
    assert server(check_cluster(configured(host))).ok is False


@pytest.mark.parametrize("script", ["echo nats-server: v2.9.10", "echo rubbish", "exit 1"])
def test_check_when_the_server_is_too_old_then_a_fault(host: Path, script: str) -> None:
    """One that would ignore the fences of writes is none."""
    install(host, script)
    found = server(check_cluster(configured(host, cluster__name="shop")))
    assert found.ok is False
    assert "2.12 or later" in found.detail


def test_check_when_nats_is_elsewhere_then_no_server_is_needed(host: Path) -> None:
    """With an address of a NATS no program is looked for."""
    found = server(check_cluster(configured(host, cluster__name="shop", nats__url="nats://x:1")))
    assert (found.ok, found.detail) == (None, "elsewhere: nats://x:1")
