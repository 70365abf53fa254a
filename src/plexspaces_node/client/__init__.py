"""The public async client of a node: what a program needs to deploy, invoke, list and stop.

It knows only the node's contracts. Its errors are those of `errors`. The names are loaded when they
are first used: a message by HTTP needs no gRPC, which takes long to load.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plexspaces_node.client.artifact import Artifact
    from plexspaces_node.client.deployment import ApplicationDeployment, DeployedApplication
    from plexspaces_node.client.node import NodeClient
    from plexspaces_node.client.options import DeployOptions, Progress
    from plexspaces_node.client.registry import VmRegistry
    from plexspaces_node.client.tls import ClientTls

__all__ = [
    "ApplicationDeployment",
    "Artifact",
    "ClientTls",
    "DeployOptions",
    "DeployedApplication",
    "NodeClient",
    "Progress",
    "VmRegistry",
]

_HOME = {
    "ApplicationDeployment": "deployment",
    "Artifact": "artifact",
    "ClientTls": "tls",
    "DeployOptions": "options",
    "DeployedApplication": "deployment",
    "NodeClient": "node",
    "Progress": "options",
    "VmRegistry": "registry",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
