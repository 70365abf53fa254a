"""What `plexspaces doctor` checks, and how it is shown."""
