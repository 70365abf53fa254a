"""Secrets of applications: encrypted in the registry, under a key that is elsewhere."""
