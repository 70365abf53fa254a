"""The public async client of a node: what a program needs to deploy, invoke, list and stop.

It knows only the gRPC contract. Its errors are those of `errors`.
"""

from __future__ import annotations

from plexspaces_node.client.artifact import Artifact
from plexspaces_node.client.deployment import ApplicationDeployment, DeployedApplication
from plexspaces_node.client.node import NodeClient
from plexspaces_node.client.options import DeployOptions, Progress
from plexspaces_node.client.registry import VmRegistry

__all__ = [
    "ApplicationDeployment",
    "Artifact",
    "DeployOptions",
    "DeployedApplication",
    "NodeClient",
    "Progress",
    "VmRegistry",
]
