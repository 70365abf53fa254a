"""What holds an agent that runs as a process of the host: its limits, its view, its command line.

Nothing is run here: this file turns data into an argument vector of util-linux's setpriv and
prlimit and, where it is wanted, bubblewrap. They are programs and not `preexec_fn`, because the
node has threads, and Python code between fork and exec of such a process can deadlock.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.model import MIB
from plexspaces_node.vm.bundle import Bundle

FILE_LIMIT_BYTES = 16 * MIB
"""The longest any file the agent writes can become, its console log among them."""

DESCRIPTOR_LIMIT = 256

DATA_RESERVE_MIB = 256
"""What RLIMIT_DATA allows beyond `VmConfig.memory_mib`.

The limit counts private writable pages whether used or not, and not wasmtime's reservations of
address space, which are PROT_NONE (measured: a Store's first memory adds 4,160 MiB to VmSize and
nothing to VmData). Measured with wasmtime 50.0.1 on Python 3.11, x86-64: interpreter, wasmtime and
msgspec 15 to 19 MiB; each thread 8 MiB of stack, a dozen at most; the tables of an instance of a
CPython component 15 MiB; and for a moment the whole compiled artifact, because `deserialize_file`
maps it writable first: 36 MiB for CPython. That is 170 MiB; the rest is for messages in flight and
larger artifacts.
"""

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
"""All of an agent's environment: what the node was started with is none of its business."""

_SYSTEM_PATHS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The programs that hold an agent, as absolute paths, and how they are used here.

    Attributes:
        bubblewrap: path of bwrap, or None to do without.
        views: bwrap's arguments that make the system and Python visible, read-only.
        drop_capabilities: the node runs as root, and the agent must not.
    """

    setpriv: str
    prlimit: str
    bubblewrap: str | None = None
    views: tuple[str, ...] = ()
    drop_capabilities: bool = False


def agent_command(
    sandbox: Sandbox, agent: Sequence[str], bundle: Bundle, *, memory_mib: int
) -> list[str]:
    """Return the argument vector that runs `agent` held by `sandbox`; pure.

    The agent's own arguments `--vm-id` and `--link` are added. The process the vector starts dies
    with the thread that starts it.
    """
    argv = [sandbox.setpriv, "--pdeathsig", "KILL", "--no-new-privs"]
    if sandbox.drop_capabilities and sandbox.bubblewrap is None:
        # The one that stays lets root enter the home directory Python may be installed in. Under
        # bubblewrap all stay until the namespaces are made; then bwrap drops every one.
        argv += ["--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all"]
    argv += [
        "--",
        sandbox.prlimit,
        f"--nofile={DESCRIPTOR_LIMIT}",
        "--core=0",
        f"--fsize={FILE_LIMIT_BYTES}",
        f"--data={(memory_mib + DATA_RESERVE_MIB) * MIB}",
        "--",
    ]
    if sandbox.bubblewrap is not None:
        argv += _bubblewrap_command(sandbox.bubblewrap, sandbox.views, bundle)
    return [*argv, *agent, "--vm-id", bundle.vm_id, "--link", str(bundle.link_socket)]


def bubblewrap_views(python: str) -> tuple[str, ...]:
    """Return bwrap's arguments that show the system's libraries and this Python, read-only.

    Looks at the file system: what is not there is left out.
    """
    views: list[str] = []
    for path in map(Path, _SYSTEM_PATHS):
        if path.is_symlink():
            views += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            views += ["--ro-bind", str(path), str(path)]
    # Each by the name it is looked up by and by the name it really has: an environment's
    # interpreter is a link, and the installation behind it may be reached through another.
    interpreter = Path(python)
    wanted = [Path(sys.prefix), Path(sys.base_prefix), _PACKAGE_ROOT]
    wanted += [interpreter.parent, interpreter.resolve().parent]
    shown = [Path("/usr")]
    for path in [form for name in wanted for form in (name, name.resolve())]:
        if not any(path.is_relative_to(other) for other in shown):
            shown.append(path)
            views += ["--ro-bind", str(path), str(path)]
    return tuple(views)


def _bubblewrap_command(bubblewrap: str, views: Sequence[str], bundle: Bundle) -> list[str]:
    # The bundle is read-only too: a socket can be dialled through a read-only mount, the console
    # log is an open descriptor, and the agent must rewrite neither its handle nor its artifact,
    # which may be a hard link into the node's cache.
    path = str(bundle.path)
    return [
        bubblewrap,
        *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--dir", "/tmp"),
        *views,
        *("--proc", "/proc", "--dev", "/dev"),
        *("--ro-bind", path, path, "--chdir", path),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        "--",
    ]
