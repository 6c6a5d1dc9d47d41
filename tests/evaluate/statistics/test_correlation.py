"""Correlations against scipy, and their clustered intervals."""

import numpy as np
import pytest
from scipy import stats

from memjax.evaluate.statistics.correlation import (
    correlation_interval,
    partial_correlation,
    partial_correlation_interval,
    pearson,
    spearman,
)


def _pairs(seed, n=50, ties=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 0.6 * x + rng.normal(size=n)
    return (np.round(x), np.round(y)) if ties else (x, y)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_values_equal_scipy(seed, ties):
    x, y = _pairs(seed, ties=ties)
    assert float(pearson(x, y)) == pytest.approx(stats.pearsonr(x, y)[0], 1e-10)
    assert float(spearman(x, y)) == pytest.approx(stats.spearmanr(x, y)[0], 1e-10)


def test_weights_equal_repeated_rows():
    x, y = _pairs(3, n=30, ties=True)
    weights = np.random.default_rng(0).integers(0, 4, (5, 30))
    for fn in (pearson, spearman):
        for got, w in zip(fn(x, y, weights), weights, strict=True):
            assert got == pytest.approx(float(fn(np.repeat(x, w), np.repeat(y, w))), 1e-10)


def test_interval_brackets_the_value_and_clusters_widen_it():
    x, y = _pairs(4, n=40)
    four = np.repeat(x, 4), np.repeat(y, 4)
    apart = correlation_interval(*four, n=800)
    together = correlation_interval(*four, np.repeat(np.arange(40), 4), n=800)
    assert together.low < together.value < together.high
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_monotone_is_one_for_ranks_only():
    x = np.arange(1.0, 20.0)
    assert float(spearman(x, np.exp(x))) == pytest.approx(1.0)
    assert float(pearson(x, np.exp(x))) < 0.9
    assert float(spearman(x, -x)) == pytest.approx(-1.0)


def test_no_spread_gives_nan():
    got = correlation_interval(np.arange(5.0), np.ones(5))
    assert np.isnan(got).all()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="'kendall'"):
        correlation_interval([1, 2, 3], [1, 2, 3], method="kendall")
    with pytest.raises(ValueError, match=r"\(2,\)"):
        pearson([1, 2], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        pearson([1, 2, np.nan], [1, 2, 3])


def _confounded(seed, n=80, ties=False):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    x, y = z @ [1.0, 0.5] + rng.normal(size=n), z @ [0.8, -1.0] + rng.normal(size=n)
    return tuple(np.round(v) for v in (x, y, z)) if ties else (x, y, z)


def _residual_correlation(x, y, z):
    """Ordinary least squares on the covariates, then Pearson of what is left."""
    design = np.column_stack([np.ones(len(x)), z])
    left = [v - design @ np.linalg.lstsq(design, v)[0] for v in (x, y)]
    return np.corrcoef(*left)[0, 1]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_partial_equals_regression_residuals(method, ties):
    x, y, z = _confounded(0, ties=ties)
    rank = stats.rankdata if method == "spearman" else np.asarray
    want = _residual_correlation(rank(x), rank(y), np.column_stack([rank(c) for c in z.T]))
    assert float(partial_correlation(x, y, z, method=method)) == pytest.approx(want, 1e-9)
    alone = _residual_correlation(rank(x), rank(y), rank(z[:, 0]))
    got = float(partial_correlation(x, y, z[:, 0], method=method))
    assert got == pytest.approx(alone, 1e-9)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_partial_weights_equal_repeated_rows(method):
    x, y, z = _confounded(1, n=30, ties=True)
    weights = np.random.default_rng(0).integers(0, 4, (5, 30))
    got = partial_correlation(x, y, z, weights, method=method)
    for value, w in zip(got, weights, strict=True):
        repeated = (np.repeat(v, w, axis=0) for v in (x, y, z))
        assert value == pytest.approx(float(partial_correlation(*repeated, method=method)), 1e-9)


def test_partial_takes_a_common_cause_away():
    """Both follow class frequency and nothing else: correlated, but not given frequency."""
    rng = np.random.default_rng(2)
    frequency = np.repeat(rng.normal(size=60), 4)
    x, y = frequency + 0.3 * rng.normal(size=240), frequency + 0.3 * rng.normal(size=240)
    clusters = np.repeat(np.arange(60), 4)
    assert correlation_interval(x, y, clusters, n=300).low > 0.8
    left = partial_correlation_interval(x, y, frequency, clusters, n=300)
    assert left.low < 0 < left.high
    linked = partial_correlation_interval(x, y + (x - frequency), frequency, clusters, n=300)
    assert linked.low > 0.3


def test_partial_given_nothing_that_varies_is_the_plain_correlation():
    x, y, z = _confounded(3)
    for method, fn in (("pearson", pearson), ("spearman", spearman)):
        plain = float(fn(x, y))
        for given in (np.ones(80), np.zeros((80, 0))):
            got = float(partial_correlation(x, y, given, method=method))
            assert got == pytest.approx(plain, 1e-10)
    twice = partial_correlation(x, y, z[:, [0, 0]], method="pearson")
    assert float(twice) == pytest.approx(_residual_correlation(x, y, z[:, 0]), 1e-8)


def test_partial_of_what_is_explained_completely_is_nan():
    x, y, _ = _confounded(4)
    assert np.isnan(partial_correlation(x, y, 2 * x + 1))
    assert np.isnan(partial_correlation_interval(x, y, x, n=50)).all()


def test_partial_errors_name_the_value():
    with pytest.raises(ValueError, match="'kendall'"):
        partial_correlation([1, 2, 3], [1, 2, 3], [1, 2, 3], method="kendall")
    with pytest.raises(ValueError, match=r"\(2, 1\), expected 3"):
        partial_correlation([1, 2, 3], [1, 2, 3], [1, 2])
