"""Says which files the agent's modules come from.

Run by the interpreter that goes into a guest, `python -S closure.py SITE MODULE...`: imports the
modules with the directory `SITE` behind the standard library and writes a line for every module
that is then loaded, its name and its file. Imports nothing itself that the agent does not.
"""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Import, look, and tell."""
    sys.path.append(sys.argv[1])
    for name in sys.argv[2:]:
        import_module(name)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__":
            sys.stdout.write(f"{name}\t{file}\n")


if __name__ == "__main__":
    main()
