"""Machines at work: their agent's connection, their consoles, what crashes left of them."""
