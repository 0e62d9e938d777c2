"""Rows and prompts as token ids, and their cache on disk."""
