"""Worker processes, signals, progress, failures, and the environment of libraries."""
