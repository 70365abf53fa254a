"""The `plexspaces` command: a client of the node's gRPC API and of `toolchains`.

Data goes to stdout, everything else to stderr. Nothing here imports `node` except to start one, and
that through the package's public names, so that a command loads only what it uses.
"""
