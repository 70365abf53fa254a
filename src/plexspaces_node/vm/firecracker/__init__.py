"""Firecracker: an agent in a microVM, restricted by the jailer."""
