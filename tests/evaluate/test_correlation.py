"""Correlations against scipy, and their clustered intervals."""

import numpy as np
import pytest
from scipy import stats

from memjax.evaluate.correlation import correlation_interval, pearson, spearman


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
