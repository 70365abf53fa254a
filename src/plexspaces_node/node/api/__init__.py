"""How a node serves its API: the gRPC service, limits on connections and calls, health."""
