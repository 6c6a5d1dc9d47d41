"""Charts as PNG bytes, one kind a file."""
