"""Did a change of the model move each prompt? Paired signed-rank test on prompt means."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

_CHUNK_ELEMENTS = 1 << 22


class PairedTest(NamedTuple):
    """Before against after.

    Attributes:
        statistic: Wilcoxon's ``T``: the smaller of the two sums of signed ranks.
        p_value: Two-sided.
        median_change: Median over clusters of the mean change; below 0 = fell.
        low: Lower end of the percentile interval of ``median_change``.
        high: Upper end.
        n: Clusters that changed: those the test rests on.
    """

    statistic: float
    p_value: float
    median_change: float
    low: float
    high: float
    n: int


def paired_test(
    before: ArrayLike,
    after: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    num_replicates: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedTest:
    """Returns Wilcoxon's signed-rank test of ``after − before``, one value a cluster.

    Generations of one prompt are not independent, so their changes are averaged first. Clusters
    that did not change are left out of the test (Wilcoxon's rule) but stay in the median. Up to 50
    clusters the p-value is exact (with tied changes up to 13, by all sign flips), beyond that the
    normal approximation.

    Args:
        before: ``[N]``.
        after: ``[N]``, row ``i`` from the same prompt and noise as ``before[i]``.
        clusters: The prompt of each row; None: every row its own.
        num_replicates: Of the bootstrap.
        seed: Of the bootstrap.
        level: Coverage.

    .. note:: Five clusters cannot give a p-value below 0.0625, whatever they show.

    Raises:
        ValueError: If the two have different lengths, no rows, or a value is not finite.
    """
    change = cluster_changes(before, after, clusters)
    moved = change[change != 0]
    statistic, p_value = 0.0, 1.0
    if moved.size:
        result = stats.wilcoxon(moved, method="auto")
        statistic, p_value = float(result.statistic), float(result.pvalue)
    drawn = _bootstrap_medians(change, num_replicates, seed)
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    median = float(np.median(change))
    return PairedTest(statistic, p_value, median, float(low), float(high), int(moved.size))


def cluster_changes(
    before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None
) -> Float[np.ndarray, " c"]:
    """Returns the mean of ``after − before`` in each cluster, in the order of the sorted ids.

    Raises:
        ValueError: As :func:`paired_test`.
    """
    b, a = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(
            f"shapes {b.shape} before and {a.shape} after were given, expected two equal lists; "
            "pair rows of the same prompt and noise."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a value is not finite, expected finite pairs; leave those pairs out.")
    if clusters is None:
        return a - b
    of_row = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    if len(of_row) != len(a):
        raise ValueError(f"{len(of_row)} clusters were given for {len(a)} rows; give one a row.")
    return np.bincount(of_row, a - b) / np.bincount(of_row)


def _bootstrap_medians(change: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng, size = np.random.default_rng(seed), len(change)
    chunk = max(_CHUNK_ELEMENTS // size, 1)
    starts = range(0, n, chunk)
    rows = (rng.integers(size, size=(min(chunk, n - s), size)) for s in starts)
    return np.concatenate([np.median(change[r], axis=1) for r in rows])
