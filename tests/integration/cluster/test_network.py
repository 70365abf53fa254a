"""The networks on which clusters are tested: they cut what they shall, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster.network import Host, leftovers, network, remove_leftovers, small_disk
from support.patience import patient

pytestmark = pytest.mark.usefixtures("own_network")

_ECHO = """
import socket
with socket.create_server(("0.0.0.0", 7)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
_REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7), timeout=float(sys.argv[2])).close()
except OSError:
    sys.exit(1)
"""
_LEAVES = """
import subprocess
from support.cluster.network import network
with network(1) as made:
    name = made.hosts[0].name
    subprocess.run(["ip", "netns", "exec", name, "sh", "-c", "echo " + name + "; exec sleep 600"])
"""


def reaches(one: Host, other: Host, *, within_s: float = 5.0) -> bool:
    argv = one.argv(sys.executable, "-c", _REACH, other.address, str(within_s))
    return subprocess.run(argv, timeout=patient(30), check=False).returncode == 0


def serve(host: Host) -> None:
    process = subprocess.Popen(
        host.argv(sys.executable, "-c", _ECHO), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    # It ends with its host.
    process.returncode = 0


def test_network_when_parts_are_cut_then_only_what_is_cut_is_out_of_reach() -> None:
    """In halves, one way, and healed; afterwards nothing is left."""
    with network(3) as made:
        a, b, c = made.hosts
        for host in made.hosts:
            serve(host)
        assert reaches(a, b)
        made.part([a, b], [c])
        assert reaches(a, b)
        assert not reaches(a, c, within_s=0.2)
        assert not reaches(c, b, within_s=0.2)
        # The answer does not arrive, so none of both has a connection.
        made.cut({(a, b)})
        assert not reaches(a, b, within_s=0.2)
        assert reaches(a, c)
        made.heal()
        assert reaches(b, c)
        numbers = a.processes()
        assert numbers
    assert leftovers() == []
    assert not any(Path(f"/proc/{number}/cwd").exists() for number in numbers)


def test_network_when_its_test_was_killed_then_the_next_removes_it() -> None:
    """With the processes in it, also those that do not end with the test's."""
    tests = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _LEAVES],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests}"},
    ) as killed:
        try:
            assert killed.stdout is not None
            name = killed.stdout.readline().strip()
            remove_leftovers()
            assert Path("/run/netns", name).exists()
            numbers = Host(name, "").processes()
            assert numbers
        finally:
            killed.kill()
    remove_leftovers()
    assert not Path("/run/netns", name).exists()
    assert not any(Path(f"/proc/{number}/cwd").exists() for number in numbers)


def test_small_disk_when_it_is_full_then_nothing_more_fits_and_it_goes(tmp_path: Path) -> None:
    """A directory that is its own file system, until the end of the body."""
    with small_disk(tmp_path / "data", 1):
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "data" / "ballast").write_bytes(bytes(2 << 20))
        assert len(leftovers()) == 1
    assert leftovers() == []
    assert list((tmp_path / "data").iterdir()) == []
