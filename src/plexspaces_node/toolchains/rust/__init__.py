"""From Rust source to an artifact."""
