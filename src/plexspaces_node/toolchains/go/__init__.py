"""From Go source to an artifact."""
