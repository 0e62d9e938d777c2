"""Held-out rows scored, and the metrics computed from the scores."""
