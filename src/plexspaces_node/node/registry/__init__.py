"""The registry: what must survive a crash, in one SQLite file."""
