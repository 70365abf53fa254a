"""The API of a node: generated stubs, and how their messages become this package's records."""
