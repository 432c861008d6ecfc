"""One file for each theme of routes."""
