"""The command: `python -m bill_of_materials OUTPUT`, which `make sbom` calls."""

from __future__ import annotations

import sys
from pathlib import Path

from bill_of_materials.document import document

ROOT = Path(__file__).parent.parent


def main(arguments: list[str]) -> int:
    """Write the bill of this checkout to the one file named; return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("error: one file to write is wanted\nhint: make sbom\n")
        return 2
    output = Path(arguments[0])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(document(ROOT))
    sys.stdout.write(f"✓ Wrote {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
