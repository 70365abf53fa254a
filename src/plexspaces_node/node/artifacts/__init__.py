"""Artifacts: uploading, compiling, keeping and evicting them."""
