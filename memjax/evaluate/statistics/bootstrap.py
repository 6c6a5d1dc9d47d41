"""Bootstrap intervals that resample whole clusters (prompts, patients), all replicates at once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

_CHUNK_ELEMENTS = 1 << 21
FEW_CLUSTERS = 5  # with fewer, resamples vary less than the world does

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class Interval(NamedTuple):
    """A figure with its 95 % interval (or the level asked for)."""

    value: float
    low: float
    high: float


def with_interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Returns an interval as report.json holds it: ``name``, ``name_low`` and ``name_high``."""
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def bootstrap_interval(
    fn: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> Interval:
    """Returns ``fn`` with its percentile interval under a clustered, label-stratified bootstrap.

    Clusters are drawn with replacement separately among the positives and the negatives, so every
    replicate has both. A replicate is a vector of integer weights, so all of them are one call.

    Args:
        fn: ``fn(scores [N], labels [N], weights [R, N] or None) → [R] or scalar``;
            :func:`memjax.evaluate.statistics.roc.auc` and
            :func:`~memjax.evaluate.statistics.roc.tpr_at_fpr` are such.
        scores: One score a row.
        labels: True = memorized.
        clusters: One id a row (the prompt); None: every row its own.
        n: Replicates.
        seed: Of NumPy's PCG64.
        level: Coverage.

    .. note:: At 0 or 1, as perfect separation gives, no resample can show a mistake that the sample
        does not hold: the exact interval is given, whose trials are the clusters of the rarer
        label.

    Raises:
        ValueError: If a cluster holds both labels.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    of_row = _cluster_numbers(clusters, len(s))
    stratum = np.zeros(of_row.max() + 1, bool)
    stratum[of_row[y]] = True
    if (stratum[of_row] != y).any():
        raise ValueError(
            f"cluster of row {int(np.flatnonzero(stratum[of_row] != y)[0])} holds both labels, "
            "expected one label a cluster; cluster by prompt."
        )
    value = float(np.squeeze(fn(s, y, None)))
    if value in (0.0, 1.0):
        return _exact_interval(value, int(min(stratum.sum(), (~stratum).sum())), level)
    parts = [np.atleast_1d(fn(s, y, w)) for w in _weights(of_row, stratum, n, seed)]
    low, high = _percentiles(np.concatenate(parts), level)
    return Interval(value, low, high)


def rate_interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> Interval:
    """Returns the mean of ``values`` (True/False or in [0, 1]) with a clustered interval.

    Where every value is 0 or every value is 1 a resample cannot vary; the exact (Clopper–Pearson)
    interval with the clusters as trials is given instead. So it is with fewer than
    ``FEW_CLUSTERS`` clusters, unless the bootstrap's is wider: one prompt says little, however
    many images it made.

    Raises:
        ValueError: If there are no values.
    """
    v = _values(values)
    of_row = _cluster_numbers(clusters, len(v))
    trials = int(of_row.max()) + 1
    if v.min() == v.max() and v[0] in (0.0, 1.0):
        return _exact_interval(float(v[0]), trials, level)
    found = _mean_interval(v, of_row, n, seed, level)
    if trials >= FEW_CLUSTERS:
        return found
    exact = _exact_interval(found.value, trials, level)
    return Interval(found.value, min(found.low, exact.low), max(found.high, exact.high))


def proportion_interval(num: int, of: int, *, level: float = 0.95) -> Interval:
    """Returns ``num / of`` with its exact (Clopper–Pearson) interval; every trial stands alone.

    Raises:
        ValueError: If there are no trials, or more successes than trials.
    """
    if not 0 <= num <= of or not of:
        raise ValueError(f"{num} of {of} is no proportion; expected 0 <= num <= of and of >= 1.")
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, num, of - num + 1)) if num else 0.0
    high = float(stats.beta.ppf(1 - tail, num + 1, of - num)) if num < of else 1.0
    return Interval(num / of, low, high)


def difference_interval(
    before: ArrayLike,
    after: ArrayLike,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> Interval:
    """Returns mean(after − before) of paired rows with a clustered interval.

    Pairs are kept together: rows ``i`` of both must come from the same prompt and noise.

    Raises:
        ValueError: If the two have different lengths or no rows.
    """
    b, a = _values(before), _values(after)
    if len(a) != len(b):
        raise ValueError(
            f"{len(b)} rows before and {len(a)} after; a paired difference needs both."
        )
    return _mean_interval(a - b, _cluster_numbers(clusters, len(a)), n, seed, level)


def cluster_weights(
    clusters: ArrayLike | None, num_rows: int, n: int, seed: int
) -> Float[np.ndarray, "n rows"]:
    """Returns how often each row appears in each of ``n`` resamples of whole clusters."""
    of_row = _cluster_numbers(clusters, num_rows)
    stratum = np.zeros(of_row.max() + 1, bool)
    return np.concatenate(list(_weights(of_row, stratum, n, seed)))


def _values(values: ArrayLike) -> np.ndarray:
    v = np.asarray(values, np.float64).ravel()
    if not v.size or not np.isfinite(v).all():
        raise ValueError(
            f"{v.size} values were given, expected at least one and all finite; "
            "leave failed rows out first."
        )
    return v


def _cluster_numbers(clusters: ArrayLike | None, num_rows: int) -> np.ndarray:
    if clusters is None:
        return np.arange(num_rows)
    number = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    if len(number) != num_rows:
        raise ValueError(f"{len(number)} clusters were given for {num_rows} rows; give one a row.")
    return number


def _weights(of_row: np.ndarray, stratum: np.ndarray, n: int, seed: int):
    """Yields ``[R, N]`` row weights: multinomial counts of clusters within each stratum."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == side) for side in (False, True)]
    chunk = max(_CHUNK_ELEMENTS // max(len(of_row), 1), 1)
    for start in range(0, n, chunk):
        reps = min(chunk, n - start)
        counts = np.zeros((reps, len(stratum)))
        for group in members:
            if group.size:
                share = np.full(group.size, 1 / group.size)
                counts[:, group] = rng.multinomial(group.size, share, size=reps)
        yield counts[:, of_row]


def _mean_interval(v: np.ndarray, of_row: np.ndarray, n: int, seed: int, level: float) -> Interval:
    total, size = np.bincount(of_row, v), np.bincount(of_row).astype(np.float64)
    one_each, stratum = np.arange(len(total)), np.zeros(len(total), bool)
    drawn = np.concatenate([(w @ total) / (w @ size) for w in _weights(one_each, stratum, n, seed)])
    return Interval(float(v.mean()), *_percentiles(drawn, level))


def _exact_interval(rate: float, trials: int, level: float) -> Interval:
    """Clopper and Pearson's interval; a share of successes need not be a whole number of them."""
    tail, successes = (1 - level) / 2, rate * trials
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if rate > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if rate < 1 else 1.0
    return Interval(rate, low, high)


def _percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100 - tail])
    return float(low), float(high)


class Estimate(NamedTuple):
    """A figure and the range it may lie in; None where it is not known."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def known(self) -> bool:
        """Whether there is a finite value."""
        return self.value is not None and bool(np.isfinite(self.value))
