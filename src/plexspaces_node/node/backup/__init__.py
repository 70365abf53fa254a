"""Backups of a data directory: written, checked and restored."""
