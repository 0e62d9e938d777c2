"""Artifacts, the store that holds them, and the shared store."""
