"""The `plexspaces` command: a client of the node's gRPC API and of `build`.

Data goes to stdout, everything else to stderr. Nothing here imports `node` but to start one, and
that through the package's front door, so that a command loads only what it uses.
"""
