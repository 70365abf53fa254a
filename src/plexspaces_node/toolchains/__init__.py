"""From a project's source to an artifact that can be deployed.

`build` detects the language from the project's files, runs that language's own compiler and caches
the result by a digest of everything it came from. `new_project` creates a project from a template.
Knows the contract in ``wit/`` and the SDKs, but not nodes, VMs or gRPC.
"""

from __future__ import annotations

from plexspaces_node.toolchains.build import BuildResult, build
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.project import (
    application_name,
    default_output,
    detect,
    project_name,
)
from plexspaces_node.toolchains.scaffold import new_project

__all__ = [
    "BuildEnvironment",
    "BuildResult",
    "application_name",
    "build",
    "default_output",
    "detect",
    "new_project",
    "project_name",
]
