"""Several rows in one forward pass, and their attention."""
