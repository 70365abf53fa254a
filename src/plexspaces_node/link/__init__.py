"""The link between a node and its agents: generated frames, and how they are read and written."""
