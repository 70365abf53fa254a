"""Whether CPU shares would hold for a node that is started as this process was."""

from __future__ import annotations

from collections.abc import Callable

from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.errors import Unsupported
from plexspaces_node.vm.host.cgroups import Place, find_place


def check_shares(config: Config, *, find: Callable[[], Place] = find_place) -> list[Finding]:
    """Look for a cgroup that a node could use; changes nothing. Blocks for a moment.

    Never a fault: a node runs without shares.
    """
    if not config.node.cgroups:
        detail = "not enforced: [node] cgroups is off"
        return [Finding("Node", "CPU shares", None, detail, "[node] cgroups = true")]
    try:
        place = find()
    except Unsupported as error:
        return [Finding("Node", "CPU shares", None, f"not enforced: {error}", error.hint)]
    return [Finding("Node", "CPU shares", True, describe(place))]


def describe(place: Place) -> str:
    """Return where the cgroups of VMs would be, and what they cannot bound."""
    missing = [one for one in ("memory", "pids") if one not in place.controllers]
    without = f", without {' and '.join(missing)}" if missing else ""
    return f"enforced, by cgroups below {place.base}{without}"
