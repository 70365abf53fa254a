"""The environment of a build: where compilers are searched, the cache, the variables.

The only module of this folder that reads the process environment, in `BuildEnvironment.here`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import xdg
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.programs import cache_home
from plexspaces_node.token_text import FILE_VARIABLE, VARIABLE

BUILD_TIMEOUT_S = 600.0
"""A first build on a slow host compiles the language's whole standard library."""


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """The environment of a build.

    Attributes:
        cache: directory of the build cache; created when first needed.
        search: directories in which compilers are searched, in order.
        variables: what compilers inherit, as far as their language passes it on.
        timeout_s: time limit of one compilation.
        wasi_libc: where a distribution has the C library of wasip1; Debian's and Ubuntu's place.
    """

    cache: Path
    search: tuple[Path, ...]
    variables: Mapping[str, str]
    timeout_s: float = BUILD_TIMEOUT_S
    wasi_libc: Path = Path("/usr/lib/wasm32-wasi")

    @classmethod
    def here(cls) -> BuildEnvironment:
        """Return the environment of this process.

        Compilers installed beside this Python take precedence over those on ``PATH``: they are the
        versions that the product was tested with. Raises `InvalidArgument` if there is no directory
        for a cache.
        """
        path = os.environ.get("PATH", os.defpath)
        on_path = tuple(Path(entry) for entry in path.split(os.pathsep) if entry)
        return cls(
            cache=cache_home(os.environ) / "plexspaces" / "build",
            # Not resolved: in a virtual environment the link is beside the compilers.
            search=((Path(sys.executable).parent,) if sys.executable else ()) + on_path,
            # A compiler runs code of packages that the user has not read.
            variables={k: v for k, v in os.environ.items() if k not in (VARIABLE, FILE_VARIABLE)},
        )

    @property
    def toolchains(self) -> Path:
        """The directory of compilers that ``plexspaces toolchain install`` installs.

        Raises `InvalidArgument` if there is no directory for it.
        """
        place = xdg.directory(xdg.DATA, self.variables)
        if place is None:
            raise InvalidArgument(
                "there is no home directory for compilers",
                hint="set XDG_DATA_HOME to a directory you can write to",
            )
        return place / "plexspaces" / "toolchains"
