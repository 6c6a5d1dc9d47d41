"""Large images on the host: bytes while they wait, floats and small ones when they are compared.

An image of 512×512 is 3 MiB as float32. An audit of a latent model keeps its images as uint8, as
files would hold them, and compares pixels at a resolution that it names.
"""

import jax
import numpy as np
from jaxtyping import Float, UInt8

from memjax.core.types import Array
from memjax.data.images import to_uint8, to_unit

Pictures = Float[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w c"]
_CHUNK = 16
SHOWN_SIDE = 320  # pixels of an image that is kept for a wall


def as_unit(images: Pictures) -> Float[np.ndarray, "n h w c"]:
    """Returns images as floats in [-1, 1], whether they are kept as floats or as bytes."""
    images = np.asarray(images)
    return to_unit(images) if images.dtype == np.uint8 else images


def as_bytes(images: Pictures) -> UInt8[np.ndarray, "n h w c"]:
    """Returns images as bytes; a value that is not finite becomes black."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return to_uint8(np.nan_to_num(images.astype(np.float32), nan=-1.0))


def reduced(images: Pictures, side: int) -> Float[np.ndarray, "n s t c"]:
    """Returns images in [-1, 1] with a short side of at most ``side`` pixels.

    Shrunk by a widened triangle (bilinear with antialiasing), a few at a time; smaller images,
    and all of them where ``side`` is 0, keep their size.
    """
    images = np.asarray(images)
    height, width = images.shape[1:3]
    short = min(height, width)
    if not side or short <= side:
        return as_unit(images)
    shape = (round(height * side / short), round(width * side / short), images.shape[3])
    out = np.empty((len(images), *shape), np.float32)
    for start in range(0, len(images), _CHUNK):
        part = as_unit(images[start : start + _CHUNK])
        padded = np.pad(part, ((0, _CHUNK - len(part)), (0, 0), (0, 0), (0, 0)))
        out[start : start + len(part)] = np.asarray(_shrunk(padded, shape))[: len(part)]
    return out


def _shrink(images: Array, shape: tuple[int, ...]) -> Array:
    return jax.image.resize(images, (len(images), *shape), "linear", antialias=True)


_shrunk = jax.jit(_shrink, static_argnums=1)


def small(pictures: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    """Returns images at the size at which a wall keeps them."""
    return as_bytes(reduced(pictures, SHOWN_SIDE))
