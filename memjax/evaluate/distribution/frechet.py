"""How far apart are two sets of features? Fréchet distance, its limit for many rows, KID."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

_BLOCK_ROWS = 4096
_GRID_POINTS = 15
_GRID_START = 5000


class Extrapolation(NamedTuple):
    """FD∞ and what it was read from.

    Attributes:
        value: Intercept of the line through ``(1/N, FD_N)``.
        sizes: ``N``, ascending.
        values: ``FD_N``.
    """

    value: float
    sizes: Int[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]


class Kid(NamedTuple):
    """Kernel distance over subsets: mean, standard deviation, rows in a subset."""

    value: float
    sd: float
    subset_size: int


def fd(a: ArrayLike, b: ArrayLike) -> float:
    """Returns ``‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2})`` in float64.

    With ``A = QR`` the centered rows, ``tr (Σ_a Σ_b)^{1/2}`` is the sum of the singular values of
    ``R_a R_bᵀ`` over ``√((n_a − 1)(n_b − 1))``: no square root of a rounded eigenvalue is taken, so
    a singular covariance (fewer rows than dimensions) costs no digits. Covariances use ``n − 1``.

    Args:
        a: ``[n_a, d]`` features.
        b: ``[n_b, d]`` features.

    Raises:
        ValueError: If shapes do not fit, fewer than two rows are given, or one is not finite.

    References:
        arXiv 1706.08500, equation 6.
    """
    x, y = feature_pair(a, b)
    return _distance(_moments(x), _moments(y))


def fd_grid(num_rows: int) -> Int[np.ndarray, " points"]:
    """Returns the sizes at which FD is measured: up to 15, evenly spaced, the last is all rows.

    From 5,000 rows where there are at least twice as many, else from half the rows.
    """
    start = max(2, min(_GRID_START, num_rows // 2))
    return np.unique(np.linspace(start, num_rows, _GRID_POINTS).astype(int))


def fd_infinity(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Extrapolation:
    """Returns FD for infinitely many rows of ``b``: least squares of ``FD_N`` on ``1/N`` at zero.

    Args:
        a: ``[n_a, d]`` reference features; all of them are used every time.
        b: ``[n_b, d]`` features; each ``N`` of :func:`fd_grid` is a draw without replacement.
        seed: Of the draws.

    .. note:: The bias of ``a``'s own size stays. Below 5,000 rows, or with fewer rows than
        dimensions, ``FD_N`` is not yet a line in ``1/N`` and the intercept is a rough one.

    Raises:
        ValueError: As :func:`fd`, or if ``b`` has fewer than four rows.

    References:
        arXiv 1911.07023, section 4.
    """
    x, y = feature_pair(a, b)
    if len(y) < 4:
        raise ValueError(f"{len(y)} rows were given, expected at least four to extrapolate from.")
    rng, reference, sizes = np.random.default_rng(seed), _moments(x), fd_grid(len(y))
    values = np.array(
        [_distance(reference, _moments(y[rng.permutation(len(y))[:n]])) for n in sizes]
    )
    design = np.stack([np.ones(len(sizes)), 1.0 / sizes], axis=1)
    return Extrapolation(float(np.linalg.lstsq(design, values)[0][0]), sizes, values)


def kid(
    a: ArrayLike,
    b: ArrayLike,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> Kid:
    """Returns the unbiased squared MMD with kernel ``(⟨x, y⟩/d + 1)³``, over random subsets.

    A subset holds ``min(subset_size, n_a, n_b)`` rows of each side, drawn without replacement.

    Args:
        a: ``[n_a, d]`` features.
        b: ``[n_b, d]`` features.
        num_subsets: Draws.
        subset_size: Most rows of a draw.
        seed: Of the draws.

    .. note:: Where a side is no larger than a subset it is the same in every draw, and the standard
        deviation is too small by that side's share. An unbiased estimate can be below zero.

    Raises:
        ValueError: As :func:`fd`.

    References:
        arXiv 1801.01401, section 4.
    """
    x, y = feature_pair(a, b)
    m, rng = min(subset_size, len(x), len(y)), np.random.default_rng(seed)
    drawn = [
        _mmd2(x[rng.permutation(len(x))[:m]], y[rng.permutation(len(y))[:m]])
        for _ in range(num_subsets)
    ]
    return Kid(float(np.mean(drawn)), float(np.std(drawn)), m)


def feature_pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as float64 ``[n, d]``, checked.

    Raises:
        ValueError: If shapes do not fit, fewer than two rows are given, or one is not finite.
    """
    x, y = features(a), features(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features have {x.shape[1]} and {y.shape[1]} dimensions, expected equal numbers; "
            "take both from the same network."
        )
    return x, y


def features(rows: ArrayLike) -> Float[np.ndarray, "n d"]:
    """Returns one set of features as float64 ``[n, d]``, checked as :func:`feature_pair`."""
    x = np.asarray(rows, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(
            f"features have shape {x.shape}, expected [rows, dimensions] with two rows or more; "
            "pass one row an image."
        )
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"feature row {bad} is not finite, expected finite ones; leave it out.")
    return x


class _Moments(NamedTuple):
    mean: np.ndarray
    root: np.ndarray  # R with RᵀR = Σ
    trace: float


def _moments(x: np.ndarray) -> _Moments:
    mean = x.mean(axis=0)
    root = np.zeros((0, x.shape[1]))
    block = max(_BLOCK_ROWS, 2 * x.shape[1])
    for start in range(0, len(x), block):
        stacked = np.concatenate([root, x[start : start + block] - mean])
        root = np.asarray(np.linalg.qr(stacked, mode="r"))
    root /= np.sqrt(len(x) - 1)
    return _Moments(mean, root, float(np.sum(root**2)))


def _distance(a: _Moments, b: _Moments) -> float:
    shared = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    gap = a.mean - b.mean
    return float(max(gap @ gap + a.trace + b.trace - 2.0 * shared, 0.0))


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
    m = len(x)
    xx, yy, xy = (_kernel(p, q) for p, q in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (m * (m - 1)) - 2.0 * xy.mean())


def _kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    base = p @ q.T / p.shape[1] + 1.0
    return base * base * base  # ten times faster than ** 3
