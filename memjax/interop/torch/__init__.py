"""PyTorch's weights files, read without torch."""
