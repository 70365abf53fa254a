"""Running VMs: their agent's connection, their consoles, leftovers of a crash."""
