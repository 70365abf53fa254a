"""More than one node: who belongs to the cluster, where applications run, how they are reached."""
