"""HTTP requests of applications, made by the node."""
