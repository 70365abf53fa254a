"""What is measured of applications and their messages, and kept in memory within limits."""
