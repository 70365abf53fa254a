#!/opt/plexspaces/bin/python -I
"""Ends with status 0 when the node of this container serves; for Docker's HEALTHCHECK.

Asks by gRPC's health protocol at the node's unix socket, which needs neither a token nor TLS; or,
where there is none, at the address at which the node was told to listen. A wildcard address is as
good as loopback to connect to.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_ADDRESS = "127.0.0.1:9000"
SOCKET = "node.sock"
TIMEOUT_S = 5.0
# A proxy of the container's environment is not for this.
OPTIONS = (("grpc.enable_http_proxy", 0),)


def main() -> int:
    """Ask once; return 0 for a node that serves, else 1 and say why."""
    address = address_of_node()
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        try:
            # The published types know no method of the stub.
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer = check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.stdout.write(f"{address}: {error.code().name}: {error.details()}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{address}: {status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def address_of_node() -> str:
    """Return where the node of this container is asked."""
    directory = os.environ.get("PLEXSPACES_NODE_DATA_DIR")
    if directory and os.path.exists(socket := os.path.join(directory, SOCKET)):
        return f"unix:{socket}"
    return os.environ.get("PLEXSPACES_NODE_ADDRESS") or DEFAULT_ADDRESS


if __name__ == "__main__":
    sys.exit(main())
