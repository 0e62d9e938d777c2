"""Stored adapters scored again: history, gate, trend."""
