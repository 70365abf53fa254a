"""The daemon: runs applications on request, and stores everything that must survive.

It runs the agent only by its command line, and asks drivers for VMs without knowing their kind.
"""
