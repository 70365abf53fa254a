"""Traces on their way to a collector of OpenTelemetry: a queue, a thread, and what it sends.

`opening` alone loads what OpenTelemetry has, which is an extra of the package.
"""
