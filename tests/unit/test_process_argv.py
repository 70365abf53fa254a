"""The command line that holds an agent, as data."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import plexspaces_node
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.sandbox import (
    ENVIRONMENT,
    Sandbox,
    agent_command,
    bubblewrap_views,
)

PLAIN = Sandbox("/usr/bin/setpriv", "/usr/bin/prlimit")
WRAPPED = replace(PLAIN, bubblewrap="/usr/bin/bwrap", views=("--ro-bind", "/usr", "/usr"))
AGENT = ("/usr/bin/python3", "-I", "-m", "plexspaces_node.agent")
BUNDLE = Bundle(Path("/data/vms/vm-1"))


def test_command_without_bubblewrap_is_setpriv_then_prlimit_then_the_agent() -> None:
    """The whole vector, so that any change of it is a change of this test."""
    assert agent_command(PLAIN, AGENT, BUNDLE, memory_mib=64) == [
        "/usr/bin/setpriv",
        "--pdeathsig",
        "KILL",
        "--no-new-privs",
        "--",
        "/usr/bin/prlimit",
        "--nofile=256",
        "--core=0",
        "--fsize=16777216",
        "--data=335544320",
        "--",
        "/usr/bin/python3",
        "-I",
        "-m",
        "plexspaces_node.agent",
        "--vm-id",
        "vm-1",
        "--link",
        "/data/vms/vm-1/link.sock",
    ]


def test_command_with_bubblewrap_shows_the_views_and_the_bundle_read_only() -> None:
    """Every namespace is new, the bundle cannot be written, and bwrap dies with the node."""
    argv = agent_command(WRAPPED, AGENT, BUNDLE, memory_mib=64)
    begin, end = argv.index("/usr/bin/bwrap"), argv.index("/usr/bin/python3")
    assert argv[begin:end] == [
        "/usr/bin/bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--dir",
        "/tmp",
        "--ro-bind",
        "/usr",
        "/usr",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--ro-bind",
        "/data/vms/vm-1",
        "/data/vms/vm-1",
        "--chdir",
        "/data/vms/vm-1",
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--",
    ]
    assert not {"--bind", "--dev-bind", "--share-net", "--setenv"} & set(argv)


@pytest.mark.parametrize("memory_mib", [64, 256, 4096])
def test_data_limit_when_memory_grows_grows_by_as_much(memory_mib: int) -> None:
    """The reserve for interpreter and runtime does not depend on the machine's size."""
    argv = agent_command(PLAIN, AGENT, BUNDLE, memory_mib=memory_mib)
    assert f"--data={(memory_mib + 256) * 1024 * 1024}" in argv


def test_capabilities_under_root_are_dropped_by_whoever_still_needs_them_last() -> None:
    """Without bubblewrap setpriv drops them; with it bwrap does, having made its namespaces."""
    plain = agent_command(replace(PLAIN, drop_capabilities=True), AGENT, BUNDLE, memory_mib=64)
    assert plain[4:8] == ["--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all"]
    wrapped = agent_command(replace(WRAPPED, drop_capabilities=True), AGENT, BUNDLE, memory_mib=64)
    assert "--bounding-set" not in wrapped
    assert wrapped[wrapped.index("--cap-drop") :][:2] == ["--cap-drop", "ALL"]


@pytest.mark.parametrize("sandbox", [PLAIN, WRAPPED])
def test_command_names_machine_and_socket_as_whole_arguments(sandbox: Sandbox) -> None:
    """What a node looks for to find an agent without a handle is there in any form."""
    argv = agent_command(sandbox, AGENT, BUNDLE, memory_mib=64)
    assert argv[-4:] == ["--vm-id", "vm-1", "--link", "/data/vms/vm-1/link.sock"]


def test_views_show_what_python_needs_and_nothing_writable() -> None:
    """Interpreter, environment, package and system libraries can be read; all by their own name."""
    views = bubblewrap_views(sys.executable)
    shown = [Path(path) for flag, path in zip(views[::3], views[2::3], strict=True)]
    assert set(views[::3]) <= {"--ro-bind", "--symlink"}
    needed = [sys.executable, sys.base_prefix, sys.prefix, plexspaces_node.__file__, "/usr"]
    for path in map(Path, needed):
        for form in (path, path.resolve()):
            assert any(form.is_relative_to(view) for view in shown), form
    assert not {Path("/"), Path("/etc"), Path("/home"), Path("/root"), Path("/tmp")} & set(shown)


def test_environment_of_an_agent_holds_three_harmless_variables() -> None:
    """Whatever is added here reaches every agent, so it is seen in a review."""
    assert set(ENVIRONMENT) == {"PATH", "LANG", "HOME"}
