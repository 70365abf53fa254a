"""What hatchling does beyond copying when it makes a wheel: put the native programs into it.

They come from the user's cache when these very sources were built on this machine, else from cargo,
which must be there: a build of a package installs no compiler on somebody's machine. An editable
installation needs neither; it runs what scripts/agent builds.
"""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PROGRAM_HEADER_INTERPRETER = 3


class NativeProgramsHook(BuildHookInterface[Any]):
    """Adds the programs, and the platform they run on to the wheel's name."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is missing; ends the build in words where that cannot be done."""
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        # Of this very source tree, whatever else is installed.
        sys.path[:0] = [str(root / "agent"), str(root / "src")]
        from native_build.faults import Fault  # noqa: PLC0415
        from native_build.programs import programs  # noqa: PLC0415
        from plexspaces_node.programs import PROGRAMS  # noqa: PLC0415

        try:
            kept = programs(root, may_install=False)
        except Fault as fault:
            self.app.abort(str(fault))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform([kept / name for name in PROGRAMS])}"
        for name in PROGRAMS:
            build_data["force_include"][str(kept / name)] = f"plexspaces_node/bin/{name}"


def _platform(programs: list[Path]) -> str:
    """Return the tags of where these programs run: anywhere, if they ask only for a kernel."""
    machine = platform.machine()
    if any(_wants_loader(program) for program in programs):
        return f"linux_{machine}"
    return f"manylinux_2_17_{machine}.manylinux2014_{machine}.musllinux_1_1_{machine}"


def _wants_loader(program: Path) -> bool:
    """Whether an ELF program of 64 bits, little-endian, is linked dynamically."""
    content = program.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return True
    (start,) = struct.unpack_from("<Q", content, 32)
    size, number = struct.unpack_from("<HH", content, 54)
    kinds = (struct.unpack_from("<I", content, start + i * size)[0] for i in range(number))
    return _PROGRAM_HEADER_INTERPRETER in kinds
