"""Is each generated image near real ones, and each real one near generated ones? PRDC."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from memjax.evaluate.distribution.frechet import feature_pair

_TIE = 1e-12  # of the largest squared norm: what rounding can move a squared distance by
_BLOCK_ELEMENTS = 1 << 23


class Prdc(NamedTuple):
    """Shares in [0, 1]; density can exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5) -> Prdc:
    """Returns precision, recall, density and coverage with balls to the ``k``-th neighbor.

    ``r_k(x)`` is the distance of ``x`` to its ``k``-th neighbor in its own set, itself not
    counted. Precision: share of fake rows in some real ball; recall: of real rows in some fake
    ball; density: real balls around a fake row, over ``k``; coverage: share of real balls that hold
    a fake row. A row on the surface is outside.

    Args:
        real: ``[n, d]`` features.
        fake: ``[m, d]`` features.
        k: Neighbors.

    .. note:: Published code differs in ``k`` and in whether the row itself is the first neighbor.
        Copies of training rows give a precision and a density of 1 or above: high is not new.

    Raises:
        ValueError: If a set has ``k`` rows or fewer, or as :func:`~.frechet.fd`.

    References:
        arXiv 1904.06991, equation 1; arXiv 2002.09797, equations 3 and 4.
    """
    x, y = feature_pair(real, fake)
    if min(len(x), len(y)) <= k or k < 1:
        raise ValueError(
            f"{len(x)} real and {len(y)} fake rows were given for k={k}, expected 1 <= k < rows; "
            "lower k or add images."
        )
    center = x.mean(axis=0)
    x, y = x - center, y - center
    tie = _TIE * max(np.einsum("nd,nd->n", s, s).max() for s in (x, y))
    real_ball, fake_ball = _radii(x, k) - tie, _radii(y, k) - tie
    inside, covered, recalled = np.zeros(len(y)), np.zeros(len(x), bool), np.zeros(len(x), bool)
    for rows in _blocks(len(x), len(y)):
        gap = _squared(x[rows], y)
        near = gap < real_ball[rows, None]
        inside += near.sum(axis=0)
        covered[rows] = near.any(axis=1)
        recalled[rows] = (gap < fake_ball).any(axis=1)
    precision, density = float((inside > 0).mean()), float(inside.mean() / k)
    return Prdc(precision, float(recalled.mean()), density, float(covered.mean()))


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its ``k``-th neighbor."""
    out = np.empty(len(x))
    for rows in _blocks(len(x), len(x)):
        gap = _squared(x[rows], x)
        gap[np.arange(len(gap)), np.arange(rows.start, rows.start + len(gap))] = np.inf
        out[rows] = np.partition(gap, k - 1, axis=1)[:, k - 1]
    return out


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sums = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b)
    return np.maximum(sums - 2.0 * (a @ b.T), 0.0)


def _blocks(n: int, width: int) -> list[slice]:
    size = max(_BLOCK_ELEMENTS // width, 1)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
