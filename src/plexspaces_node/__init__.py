"""PlexSpaces node: deploy WebAssembly applications into microVMs, one VM per application.

The public names of the package. They are loaded when they are first used, so that importing the
package is fast.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plexspaces_node.client import ApplicationDeployment, NodeClient, VmRegistry
    from plexspaces_node.config import ConfigBootstrap
    from plexspaces_node.model import VmConfig
    from plexspaces_node.node.builder import NodeBuilder
    from plexspaces_node.tracker import CoordinationComputeTracker

__version__ = "0.1.0"

__all__ = [
    "ApplicationDeployment",
    "ConfigBootstrap",
    "CoordinationComputeTracker",
    "NodeBuilder",
    "NodeClient",
    "VmConfig",
    "VmRegistry",
    "__version__",
]

_HOME = {
    "ApplicationDeployment": "client",
    "ConfigBootstrap": "config",
    "CoordinationComputeTracker": "tracker",
    "NodeBuilder": "node.builder",
    "NodeClient": "client",
    "VmConfig": "model",
    "VmRegistry": "client",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
