"""One module for each row format."""
