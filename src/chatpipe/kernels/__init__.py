"""Fast paths of computations."""
