"""The HTTP door of a node: messages to applications, and the control API as JSON."""
