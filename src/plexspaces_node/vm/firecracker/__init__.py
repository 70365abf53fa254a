"""Firecracker: an agent in a microVM behind the jailer."""
