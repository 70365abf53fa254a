"""No core files: what is in the memory of a node or a VM is not written to a disk by a crash."""

from __future__ import annotations

import resource


def forbid() -> None:
    """Forbid core files to this process and to those it starts, until they end.

    A program that the kernel passes cores to, such as systemd-coredump, is told the limit and keeps
    none either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
