"""Structural similarity (SSIM) and its multi-scale form, one image against many.

``SSIM = l · cs`` in each Gaussian window, ``l = (2 μ_x μ_y + C₁) / (μ_x² + μ_y² + C₁)`` and
``cs = (2 σ_xy + C₂) / (σ_x² + σ_y² + C₂)``, averaged over all windows that fit into the image.

.. note:: Images in [-1, 1] are moved to [0, 2] first: the luminance term ``l`` is meant for
    intensities from black = 0 up, and would call two gray images either side of 0 opposites.
.. note:: The multi-scale form averages ``cs`` over the windows of a scale before it is raised to
    its weight, takes a negative average for 0, and halves images by 2×2 means; a last odd row or
    column is dropped.

References:
    Wang et al. 2004, "Image quality assessment", IEEE TIP 13(4), equation 13;
    Wang et al. 2003, "Multi-scale structural similarity", Asilomar, equation 7.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array

WINDOW, SIGMA = 11, 1.5
K1, K2, DATA_RANGE = 0.01, 0.03, 2.0
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_HIGHEST = jax.lax.Precision.HIGHEST


def window_of(side: int) -> int:
    """Returns the window's edge: 11 pixels, or the largest odd number that fits."""
    return min(WINDOW, side - 1 + side % 2)


def scale_weights(side: int) -> tuple[float, ...]:
    """Returns the weights of as many of the five scales as a full window fits into, summing to 1.

    Args:
        side: The shorter edge in pixels; all five scales need 176.
    """
    count = sum(side // 2**scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))
    weights = SCALE_WEIGHTS[: max(count, 1)]
    return tuple(weight / sum(weights) for weight in weights)


@functools.lru_cache(maxsize=32)
def _blurring(size: int, window: int) -> Float[np.ndarray, "valid size"]:
    """The Gaussian window as a matrix: one row for each place at which it fits."""
    at = np.arange(window) - window // 2
    taps = np.exp(-0.5 * (at / SIGMA) ** 2)
    rows = np.zeros((size - window + 1, size))
    for row in range(len(rows)):
        rows[row, row : row + window] = taps / taps.sum()
    return rows.astype(np.float32)


def _local_means(x: Float[Array, "h w *n"]) -> Float[Array, "h2 w2 *n"]:
    """Gaussian means, as one product of matrices for each direction.

    Images lie along the last axis: both products then read memory in order, which on CPU makes
    them eight times as fast as with the image first.
    """
    h, w, *rest = x.shape
    window = window_of(min(h, w))
    down, across = _blurring(h, window), _blurring(w, window)
    y = jnp.einsum("uh,hwn->uwn", down, x.reshape(h, w, -1), precision=_HIGHEST)
    y = jnp.einsum("vw,uwn->uvn", across, y, precision=_HIGHEST)
    return y.reshape(*y.shape[:2], *rest)


def _terms(
    x: Float[Array, "h w c 1"], ys: Float[Array, "h w c m"]
) -> tuple[Float[Array, "h2 w2 c m"], Float[Array, "h2 w2 c m"]]:
    """Luminance and contrast-structure maps; centered first, as variances are differences."""
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    x_level, y_level = (jnp.mean(z, axis=(0, 1, 2), keepdims=True) for z in (x, ys))
    x, ys = x - x_level, ys - y_level
    mean_x, square_x = jnp.split(_local_means(jnp.concatenate([x, x * x], axis=-1)), 2, axis=-1)
    maps = _local_means(jnp.concatenate([ys, ys * ys, x * ys], axis=-1))
    mean_y, square_y, product = jnp.split(maps, 3, axis=-1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    structure = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    mu_x, mu_y = mean_x + x_level + 1.0, mean_y + y_level + 1.0
    return (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1), structure


def _halved(x: Float[Array, "h w c n"]) -> Float[Array, "h2 w2 c n"]:
    h, w, c, n = x.shape
    x = x[: h // 2 * 2, : w // 2 * 2]
    return x.reshape(h // 2, 2, w // 2, 2, c, n).mean(axis=(1, 3))


def one_to_many(
    weights: Sequence[float], x: Float[Array, "h w c"], ys: Float[Array, "h w c m"]
) -> Float[Array, " m"]:
    """``Π_s cs_s^{w_s}`` with the last scale's ``l · cs``; a channel is an image of its own."""
    x = x[..., None]
    total = jnp.ones(ys.shape[2:])
    for scale, weight in enumerate(weights):
        luminance, structure = _terms(x, ys)
        last = scale == len(weights) - 1
        mean = jnp.mean(luminance * structure if last else structure, axis=(0, 1))
        if len(weights) == 1:
            return jnp.mean(mean, axis=0)
        total = total * jnp.maximum(mean, 0.0) ** weight
        x, ys = _halved(x), _halved(ys)
    return jnp.mean(total, axis=0)
