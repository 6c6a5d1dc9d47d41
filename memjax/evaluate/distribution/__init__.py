"""Two sets of pictures compared as distributions."""
