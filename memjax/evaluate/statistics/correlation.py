"""Do two per-example figures go together? Pearson and Spearman with clustered intervals."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.bootstrap import Interval, cluster_weights

_CHUNK_ELEMENTS = 1 << 22


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
        y: ``[N]``, e.g. its similarity to the nearest training image.
        clusters: The prompt of each row; None: every row its own.
        method: ``"spearman"`` or ``"pearson"``.
        n: Replicates.
        seed: Of the bootstrap.
        level: Coverage.

    Raises:
        ValueError: If ``method`` is unknown, or as :func:`pearson`.
    """
    _check_method(method)
    fn = spearman if method == "spearman" else pearson
    drawn = fn(x, y, cluster_weights(clusters, np.size(x), n, seed))
    return _percentile_interval(float(fn(x, y)), drawn, level)


def partial_correlation(
    x: ArrayLike,
    y: ArrayLike,
    given: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    method: str = "spearman",
) -> Float[np.ndarray, " *r"]:
    """Returns the correlation of what ``given`` leaves unexplained of ``x`` and of ``y``.

    With ``S`` the covariance of ``(x, y)`` and covariates ``z``: the correlation in
    ``S_xy − S_xz S_zz⁺ S_zy``. Spearman's is the same of mean ranks. NaN where ``given`` explains
    one of the two completely, or one does not vary.

    Args:
        x: ``[N]``.
        y: ``[N]``.
        given: ``[N]`` or ``[N, c]`` covariates, e.g. the log frequency of each row's class. One
            that does not vary explains nothing.
        weights: Optional ``[R, N]``: ``R`` weighted versions at once.
        method: ``"spearman"`` or ``"pearson"``.

    Raises:
        ValueError: If ``method`` is unknown, ``given`` does not fit, or as :func:`pearson`.
    """
    _check_method(method)
    a, b = _pair(x, y)
    z = _covariates(given, a.size)
    w = np.ones(a.size) if weights is None else np.asarray(weights, np.float64)
    columns = [a, b, *z.T]
    if method == "spearman":
        columns = [_ranks(v, w) for v in columns]
    return _partial(np.stack([np.broadcast_to(v, w.shape) for v in columns], axis=-2), w)


def partial_correlation_interval(
    x: ArrayLike,
    y: ArrayLike,
    given: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    method: str = "spearman",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Returns :func:`partial_correlation` with its percentile interval; clusters are resampled.

    Args:
        x: ``[N]``, e.g. the magnitude of each generation.
        y: ``[N]``, e.g. its similarity to the nearest training image.
        given: ``[N]`` or ``[N, c]`` covariates.
        clusters: The prompt of each row; None: every row its own.
        method: ``"spearman"`` or ``"pearson"``.
        n: Replicates.
        seed: Of the bootstrap.
        level: Coverage.

    Raises:
        ValueError: As :func:`partial_correlation`.
    """

    value = float(partial_correlation(x, y, given, method=method))
    weights = cluster_weights(clusters, np.size(x), n, seed)
    chunk = max(_CHUNK_ELEMENTS // (np.size(given) + 2 * np.size(x)), 1)
    parts = [weights[i : i + chunk] for i in range(0, n, chunk)]
    drawn = [partial_correlation(x, y, given, w, method=method) for w in parts]
    return _percentile_interval(value, np.concatenate(drawn), level)


def _percentile_interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _check_method(method: str) -> None:
    if method not in ("spearman", "pearson"):
        raise ValueError(f"method is {method!r}, expected 'spearman' or 'pearson'; pass one.")


def _covariates(given: ArrayLike, num_rows: int) -> np.ndarray:
    z = np.asarray(given, np.float64)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or len(z) != num_rows or not np.isfinite(z).all():
        raise ValueError(
            f"covariates have shape {z.shape}, expected {num_rows} finite rows; "
            "give one a pair and leave unknown ones out."
        )
    return z


def _partial(columns: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Partial correlation of the first two of ``columns [..., V, N]`` under weights ``[..., N]``.

    Columns are scaled to unit variance first, so that one cut-off tells spread from rounding.
    """
    share = (w / w.sum(axis=-1, keepdims=True))[..., None, :]
    gap = columns - (share * columns).sum(axis=-1, keepdims=True)
    spread = np.sqrt((share * gap * gap).sum(axis=-1, keepdims=True))
    scale = np.maximum(np.abs(columns).max(axis=-1, keepdims=True), 1e-300)
    varies = spread > 1e-12 * scale
    unit = np.where(varies, gap / np.where(varies, spread, 1.0), 0.0)
    s = (share * unit) @ np.swapaxes(unit, -1, -2)
    cross, inverse = s[..., :2, 2:], np.linalg.pinv(s[..., 2:, 2:], rcond=1e-10, hermitian=True)
    left = s[..., :2, :2] - cross @ inverse @ np.swapaxes(cross, -1, -2)
    own = np.stack([left[..., 0, 0], left[..., 1, 1]], axis=-1)
    known = (own > 1e-10).all(axis=-1)
    bottom = np.sqrt(np.where(known, own[..., 0] * own[..., 1], 1.0))
    return np.where(known, np.clip(left[..., 0, 1] / bottom, -1.0, 1.0), np.nan)


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
