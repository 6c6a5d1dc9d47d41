"""Self-contained HTML pages, one kind a file."""
