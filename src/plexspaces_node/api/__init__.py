"""The API of a node: generated stubs, and their conversion to this package's records."""
