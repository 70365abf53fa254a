"""What Prometheus scrapes: the metrics of a node, how they are written, and their port."""
