"""A stand-in for the agent: dials the link and stays until the link or a signal ends it.

Run as a program with the agent's own arguments. What a test sends it over the link it does:
`facts` answers with what it can see of itself and of the host, `exit N` ends with that status.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import sys


def main() -> int:
    """Serve the link; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vm-id", required=True)
    parser.add_argument("--link", required=True)
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM and the link's end")
    parser.add_argument("--fail", action="store_true", help="end at once with status 3")
    options = parser.parse_args()
    if options.fail:
        sys.stderr.write("no such thing as a link\n")
        return 3
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(options.link)
    link.sendall(f"hello {options.vm_id}\n".encode())
    for line in link.makefile("r"):
        words = line.split()
        if words[0] == "exit":
            return int(words[1])
        if words[0] == "facts":
            link.sendall(json.dumps(facts(words[1:])).encode() + b"\n")
    while options.deaf:
        signal.pause()
    return 0


def facts(paths: list[str]) -> dict[str, object]:
    """Tell what this process has, and which of `paths` it could write or see."""
    with open("/proc/self/status") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors.append(os.readlink(f"/proc/self/fd/{name}"))
    return {
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "session": os.getsid(0),
        "pid": os.getpid(),
        "descriptors": descriptors,
        "capabilities": int(status["CapEff"], 16),
        "no_new_privs": status["NoNewPrivs"],
        "limits": {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
            for name in ("nofile", "core", "fsize", "data")
        },
        "interfaces": [name for _, name in socket.if_nameindex()],
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "visible": [path for path in paths if os.path.exists(path)],
        "writable": [path for path in paths if _writable(path)],
    }


def _writable(path: str) -> bool:
    probe = os.path.join(path, f"written-by-{os.getpid()}")
    try:
        with open(probe, "w"):
            pass
    except OSError:
        return False
    os.unlink(probe)
    return True


if __name__ == "__main__":
    sys.exit(main())
