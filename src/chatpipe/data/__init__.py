"""Row files read, normalized, merged and split."""
