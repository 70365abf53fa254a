"""Where in a cluster an application runs, in the words that several commands use."""

from __future__ import annotations

from plexspaces_node.info import ApplicationInfo, ReplicaInfo


def where(application: ApplicationInfo) -> list[tuple[str, str]]:
    """Return the lines of an application about its nodes; none without a cluster."""
    if not application.node and not application.nodes:
        return []
    told = [_told(each) for each in application.nodes]
    return [("Node" if len(told) < 2 else "Nodes", ", ".join(told) or application.node)]


def asked_for(application: ApplicationInfo) -> list[tuple[str, str]]:
    """Return the lines about where it is to run; none without a cluster."""
    if not application.replicas:
        return []
    lines = [("Replicas", str(application.replicas))]
    wishes = [f"{key}={value}" for key, value in sorted(application.on.items())]
    wishes += [f"level {application.level}"] if application.level else []
    if wishes:
        lines.append(("Only on nodes", ", ".join(wishes)))
    if application.placement:
        lines.append(("Placement", application.placement))
    return lines


def _told(replica: ReplicaInfo) -> str:
    why = f": {replica.error}" if replica.error else ""
    return f"{replica.node} ({replica.state}{why})"
