"""A stand-in for the program `plexspaces-compile`: its command line, its limits, no compiler."""

from __future__ import annotations

import sys

BEGIN = """
import ctypes, json, os, pathlib, resource, sys, time
words, options = sys.argv[1:], {}
while words[0].startswith("--"):
    name, value, *words = words
    options[name] = int(value)
def bound(what, soft, hard):
    resource.setrlimit(what, (soft, hard))
ctypes.CDLL(None).prctl(1, 9)
assert os.getppid() == options["--parent"]
bound(resource.RLIMIT_DATA, *[options["--memory-bytes"]] * 2)
bound(resource.RLIMIT_CPU, options["--cpu-s"], options["--cpu-s"] + 1)
bound(resource.RLIMIT_FSIZE, *[options["--file-bytes"]] * 2)
action, source, target = words[0], pathlib.Path(words[1]), pathlib.Path(words[-1])
here = next(p for p in source.parents if p.name == "artifacts").parent
def say(**report):
    print(json.dumps(report))
"""
"""What every fake begins with; `here` is the root of the store that the source lies in."""


def fake_compiler(program: str) -> tuple[str, ...]:
    """Return the command of a compiler that runs this program after `BEGIN`."""
    return (sys.executable, "-I", "-c", BEGIN + program)
