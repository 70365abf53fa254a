"""Builds the native programs of a checkout, and keeps them in the user's cache.

Serves ``scripts/agent`` and the hook that makes a wheel; needs only the standard library, since it
runs before anything is installed.
"""
