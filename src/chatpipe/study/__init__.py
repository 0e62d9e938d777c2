"""A variant's steps, settings and stored artifacts."""
