"""Two sets of images compared as distributions."""
