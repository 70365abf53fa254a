"""The daemon: what turns requests into running applications and keeps the truth about them.

Runs the agent by command line only, and asks drivers for machines without knowing their kind.
"""
