"""From Python source to an artifact."""
