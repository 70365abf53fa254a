"""What other nodes may ask this one about applications: what runs here alone."""

from __future__ import annotations

from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.operations import ClusterOperations


class HereOnly:
    """The operations of the port for other nodes; an `api.service.Operations`.

    A call is passed on once: what is asked here is answered by this node.
    """

    def __init__(self, applications: Applications, operations: ClusterOperations) -> None:
        self.deploy = applications.deploy
        self.undeploy = applications.undeploy
        self.stop, self.start = applications.stop, applications.start
        self.list, self.vm_size = applications.list, applications.vm_size
        # With where else it is.
        self.inspect = operations.inspect

    def __repr__(self) -> str:
        return "<HereOnly>"
