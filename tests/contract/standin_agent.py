"""A stand-in for the agent: dials the link and stays until the link or a signal ends it.

Run as a program with the agent's own arguments. What a test sends it over the link it does:
`facts` answers with what it was given, `exit N` ends with that status.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys


def main() -> int:
    """Serve the link; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vm-id", required=True)
    parser.add_argument("--link", required=True)
    for name in ("--node-pid", "--memory-mib", "--uid"):
        parser.add_argument(name, help="what holds the agent itself, and not its stand-in")
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
            link.sendall(json.dumps(facts()).encode() + b"\n")
    while options.deaf:
        signal.pause()
    return 0


def facts() -> dict[str, object]:
    """Tell what this process was given."""
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
    }


if __name__ == "__main__":
    sys.exit(main())
