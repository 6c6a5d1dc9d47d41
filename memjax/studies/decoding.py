"""From final states to images on the host, a few at a time."""

import numpy as np
from jaxtyping import UInt8

from memjax.core.types import Bundle
from memjax.evaluate.similarity.resolution import as_bytes

_DECODED = 4  # latents at a time


def decoded(bundle: Bundle, states: np.ndarray) -> UInt8[np.ndarray, "p g h w c"]:
    """Returns final states ``[p, g, ...]`` as images of bytes, a few decoded at a time."""
    rows = states.reshape(-1, *states.shape[2:])
    parts = [
        as_bytes(np.asarray(bundle.decode(rows[start : start + _DECODED])))
        for start in range(0, len(rows), _DECODED)
    ]
    pictures = np.concatenate(parts)
    return pictures.reshape(*states.shape[:2], *pictures.shape[1:])
