"""Structural similarity of many images with many others: :mod:`memjax.core.ssim` in blocks."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from memjax.core.ssim import SCALE_WEIGHTS, WINDOW, one_to_many, scale_weights

__all__ = ["SCALE_WEIGHTS", "WINDOW", "scale_weights", "structural_similarity"]


@functools.partial(jax.jit, static_argnums=0)
def _each_to_all(weights, queries, gallery):
    last = gallery.transpose(1, 2, 3, 0)
    return jax.lax.map(lambda x: one_to_many(weights, x, last), queries)


@functools.partial(jax.jit, static_argnums=0)
def _each_to_own(weights, queries, galleries):
    last = galleries.transpose(0, 2, 3, 4, 1)
    return jax.lax.map(lambda pair: one_to_many(weights, *pair), (queries, last))


def structural_similarity(
    queries: Float[np.ndarray, "q h w c"],
    gallery: Float[np.ndarray, "..."],
    *,
    weights: Sequence[float] = (1.0,),
    block: int = 256,
) -> Float[np.ndarray, "q m"]:
    """Returns SSIM (one weight) or MS-SSIM (several) of each query with each gallery image.

    Args:
        queries: ``[q, h, w, c]`` in [-1, 1].
        gallery: ``[m, h, w, c]``, the same for all queries, or ``[q, m, h, w, c]``, each query its
            own.
        weights: Of the scales, finest first; :func:`scale_weights` gives the published ones.
        block: Images in memory at a time.

    Raises:
        ValueError: If the coarsest scale is smaller than the window.
    """
    side = min(queries.shape[1:3])
    if side < 3 or (len(weights) > 1 and side // 2 ** (len(weights) - 1) < WINDOW):
        raise ValueError(
            f"images of {side} pixels are too small for {len(weights)} scales of structural "
            f"similarity; use weights=scale_weights({side})."
        )
    scales = tuple(float(weight) for weight in weights)
    if gallery.ndim == queries.ndim:
        found = _all_blocks(scales, queries, gallery, min(block, _power_of_two(len(gallery))))
    else:
        found = _own_blocks(scales, queries, gallery, max(block // max(gallery.shape[1], 1), 1))
    return np.minimum(found, 1.0)  # rounding may lift an image's similarity to itself above 1


def _all_blocks(scales, queries, gallery, block: int) -> np.ndarray:
    out = np.empty((len(queries), len(gallery)), np.float32)
    rows = min(block, 32, _power_of_two(len(queries)))
    for i in range(0, len(queries), rows):
        some = _padded(queries[i : i + rows], rows)
        for j in range(0, len(gallery), block):
            part = gallery[j : j + block]
            found = _each_to_all(scales, some, _padded(part, block))
            out[i : i + rows, j : j + len(part)] = found[: len(out) - i, : len(part)]
    return out


def _own_blocks(scales, queries, galleries, rows: int) -> np.ndarray:
    out = np.empty(galleries.shape[:2], np.float32)
    for i in range(0, len(queries), rows):
        some, own = _padded(queries[i : i + rows], rows), _padded(galleries[i : i + rows], rows)
        out[i : i + rows] = _each_to_own(scales, some, own)[: len(out) - i]
    return out


def _power_of_two(count: int) -> int:
    """The next one up: few sizes to compile for, little of them empty."""
    return 1 << max(count - 1, 0).bit_length()


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))
