"""Reads, wraps and marks WebAssembly files for builds."""
