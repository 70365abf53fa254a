"""What both ends of a connection share: stubs, conversions, error tables, the link's framing."""
