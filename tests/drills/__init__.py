"""Drills: whole studies by the real command, disturbed, and compared with undisturbed ones."""
