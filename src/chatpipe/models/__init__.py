"""Base models and adapters: checks, loading, memory, placement on devices."""
