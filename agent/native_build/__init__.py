"""Builds the native programs of a checkout, and keeps them in the user's cache.

Used by ``scripts/agent`` and the hook that builds a wheel; needs only the standard library, because
it runs before anything is installed.
"""
