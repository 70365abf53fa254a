"""From TypeScript source to an artifact."""
