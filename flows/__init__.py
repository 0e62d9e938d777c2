"""Prefect flows: the stories, told in order."""
