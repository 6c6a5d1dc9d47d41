"""Parameters that are the same on every machine, without a file."""

import zlib

import numpy as np
from flax import traverse_util


def draw(template: dict) -> dict:
    """Fills a tree of shapes: uniform numbers that keep activations of order one.

    Each leaf has a generator seeded by its name, and RandomState's stream is frozen for good.
    """
    filled = {}
    for path, leaf in traverse_util.flatten_dict(template).items():
        numbers = np.random.RandomState(zlib.crc32("/".join(path).encode()))
        values = numbers.uniform(-1, 1, leaf.shape)
        if path[-1] == "kernel":
            values *= np.sqrt(3 / np.prod(leaf.shape[:-1]))
        else:
            values = 0.2 * values + (path[-1] == "scale")
        filled[path] = values.astype(np.float32)
    return traverse_util.unflatten_dict(filled)
