"""Where data sets and base models come from: hub, wheel, local files."""
