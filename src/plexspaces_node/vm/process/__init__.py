"""Process isolation: an agent in a child process of the node."""
