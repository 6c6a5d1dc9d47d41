"""Do two per-example figures go together? Pearson and Spearman with clustered intervals."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.evaluate.bootstrap import Interval, cluster_weights


def pearson(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None
) -> Float[np.ndarray, " *r"]:
    """Returns ``cov(x, y) / (sd(x) sd(y))``; NaN where one of them does not vary.

    Args:
        x: ``[N]``.
        y: ``[N]``.
        weights: Optional ``[R, N]``: ``R`` weighted versions at once.

    Raises:
        ValueError: If lengths differ, fewer than three rows are given, or one is not finite.
    """
    a, b = _pair(x, y)
    w = np.ones(a.size) if weights is None else np.asarray(weights, np.float64)
    return _weighted(a, b, w)


def spearman(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None
) -> Float[np.ndarray, " *r"]:
    """Returns the Pearson correlation of the ranks; ties share their mean rank.

    With ``weights`` the ranks are those of the resample, each row counted so many times.
    """
    a, b = _pair(x, y)
    w = np.ones(a.size) if weights is None else np.asarray(weights, np.float64)
    return _weighted(_ranks(a, w), _ranks(b, w), w)


def correlation_interval(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    method: str = "spearman",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Returns a correlation with its percentile interval; whole clusters are resampled.

    Args:
        x: ``[N]``, e.g. the magnitude of each generation.
        y: ``[N]``, e.g. its similarity to the nearest training picture.
        clusters: The prompt of each row; None: every row its own.
        method: ``"spearman"`` or ``"pearson"``.
        n: Replicates.
        seed: Of the bootstrap.
        level: Coverage.

    Raises:
        ValueError: If ``method`` is unknown, or as :func:`pearson`.
    """
    methods: dict[str, Callable[..., np.ndarray]] = {"spearman": spearman, "pearson": pearson}
    if method not in methods:
        raise ValueError(f"method is {method!r}, expected 'spearman' or 'pearson'; pass one.")
    fn = methods[method]
    drawn = fn(x, y, cluster_weights(clusters, np.size(x), n, seed))
    drawn = drawn[np.isfinite(drawn)]
    value, tail = float(fn(x, y)), 50 * (1 - level)
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 3:
        raise ValueError(
            f"shapes {a.shape} and {b.shape} were given, expected two equal lists of three or more."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a value is not finite, expected finite pairs; leave those pairs out.")
    return a, b


def _ranks(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean ranks ``[..., N]`` in a sample that holds row ``i`` ``w[..., i]`` times."""
    order = np.argsort(v, kind="stable")
    group = np.cumsum(np.append(0, np.diff(v[order]) != 0))
    starts = np.flatnonzero(np.append(True, np.diff(group) != 0))
    size = np.add.reduceat(w[..., order], starts, axis=-1)
    rank = np.cumsum(size, axis=-1) - (size - 1) / 2
    out = np.empty(w.shape)
    out[..., order] = rank[..., group]
    return out


def _weighted(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    total = w.sum(axis=-1, keepdims=True)
    da = a - (w * a).sum(axis=-1, keepdims=True) / total
    db = b - (w * b).sum(axis=-1, keepdims=True) / total
    top = (w * da * db).sum(axis=-1)
    spread = (w * da * da).sum(axis=-1) * (w * db * db).sum(axis=-1)
    varies = spread > 1e-24 * total[..., 0] ** 2
    return np.where(varies, top / np.sqrt(np.where(varies, spread, 1.0)), np.nan)
