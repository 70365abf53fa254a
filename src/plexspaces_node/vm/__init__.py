"""How VMs are made: the driver contract and the drivers. Knows nothing of actors or gRPC."""
