"""NATS, the engine of a cluster: its server beside the node, connections to it, and its buckets.

Knows nothing of applications. `connection` alone loads the client, an extra of the package.
"""
