"""What /proc tells of kinship."""

from __future__ import annotations

import subprocess
import sys

from plexspaces_node.vm.host import procfs

_FAMILY = """(sh -c "echo up; read line; true"; true); true"""


def test_tree_when_asked_then_it_is_the_process_and_all_below_it() -> None:
    """Parents come before their children; nothing is left once the process has ended."""
    command = ["sh", "-c", _FAMILY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        found = [member.pid for member in procfs.tree(process.pid)]
        process.stdin.close()
    assert found[0] == process.pid
    assert len(found) >= 2
    assert procfs.tree(process.pid) == []


def test_with_any_arguments_when_a_process_has_only_a_part_then_it_is_another() -> None:
    """One scan finds those of many machines, and nobody who only names one."""
    program = ("import sys; sys.stdin.read()", "vm-of-this-test")
    with (
        subprocess.Popen([sys.executable, "-c", *program, "/a"], stdin=subprocess.PIPE) as whole,
        subprocess.Popen([sys.executable, "-c", *program], stdin=subprocess.PIPE) as part,
    ):
        wanted = [("vm-of-no-test", "/b"), ("vm-of-this-test", "/a")]
        found = [identity.pid for identity in procfs.with_any_arguments(wanted)]
        whole.kill()
        part.kill()
    assert found == [whole.pid]
    assert procfs.with_any_arguments([]) == []
