"""Prompts answered: the panel, batches, chat."""
