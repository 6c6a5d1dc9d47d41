"""Convolution and attention where the library's own are slow: on CPU, and on TPU."""
