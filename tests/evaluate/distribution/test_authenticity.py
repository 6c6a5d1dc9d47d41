"""AuthPct, C_T and nearest-neighbor percentiles against direct references."""

import numpy as np
import pytest
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from memjax.evaluate.distribution.authenticity import (
    auth_pct,
    c_t,
    nearest_percentiles,
    percentile_ranks,
)


def _rows(seed, n, d=5):
    return np.random.default_rng(seed).normal(size=(n, d))


def _dist(p, q):
    return float(np.sqrt(np.sum((p - q) ** 2)))


def _auth_by_loops(train, generated):
    authentic = 0
    for g in generated:
        j = min(range(len(train)), key=lambda i: _dist(g, train[i]))
        own = min(_dist(train[j], train[i]) for i in range(len(train)) if i != j)
        authentic += own < _dist(g, train[j])
    return 100 * authentic / len(generated)


@pytest.mark.parametrize("seed", range(3))
def test_auth_pct_equals_loops(seed):
    train, generated = _rows(seed, 50), 0.8 * _rows(seed + 10, 40)
    want = _auth_by_loops(train, generated)
    assert 10 < want < 95
    assert auth_pct(train, generated) == pytest.approx(want, 1e-5)


def test_auth_pct_of_copies_is_zero_and_of_far_rows_100():
    train = _rows(3, 80)
    assert auth_pct(train, train) == 0.0
    assert auth_pct(train, train + 1e-6) == 0.0
    assert auth_pct(train, train + 100.0) == 100.0


def _c_t_by_scipy(train, test, generated, seed):
    if train.shape[1] > 64:
        pca = PCA(64, svd_solver="full").fit(train)
        train, test, generated = (pca.transform(x) for x in (train, test, generated))
    cells = KMeans(3, n_init=10, random_state=seed).fit(train)
    top = bottom = 0.0
    for cell in range(3):
        t, p, q = (x[cells.predict(x) == cell] for x in (train, test, generated))
        if len(q) < 20:
            continue
        made, tested = ([min(_dist(row, other) for other in t) for row in x] for x in (q, p))
        u = stats.mannwhitneyu(made, tested, alternative="less").statistic
        n, m = len(p), len(q)
        z = (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
        share = n / len(test)
        top, bottom = top + share * z, bottom + share
    return top / bottom


@pytest.mark.parametrize(("d", "scale"), [(4, 1.0), (4, 0.7), (70, 1.0)])
def test_c_t_equals_scipys_mann_whitney(d, scale):
    train, test, made = _rows(4, 150, d), _rows(5, 90, d), scale * _rows(6, 110, d)
    want = _c_t_by_scipy(train, test, made, seed=2)
    assert c_t(train, test, made, seed=2) == pytest.approx(want, 1e-5)


def test_c_t_tells_copies_from_fresh_and_from_far():
    train, test = _rows(7, 200), _rows(8, 150)
    assert c_t(train, test, train[:200] + 1e-3) < -8
    assert abs(c_t(train, test, _rows(9, 200))) < 3  # a mean of three standard normals or so
    assert c_t(train, test, 3 * _rows(10, 200)) > 5


def test_small_cells_do_not_count():
    """The third cell has 19 generated rows, all copies: the other two alone decide."""
    centers = np.array([[0.0, 0], [50, 0], [0, 50]])

    def at(seed, sizes):
        parts = [
            c + _rows(seed + i, n, 2) for i, (c, n) in enumerate(zip(centers, sizes, strict=True))
        ]
        return np.concatenate(parts)

    train, test = at(20, (60, 60, 60)), at(30, (40, 40, 40))
    fresh, copies = at(40, (40, 40, 0)), train[-20:]
    without = c_t(train, test, fresh)
    assert c_t(train, test, np.concatenate([fresh, copies[:19]])) == pytest.approx(without)
    assert c_t(train, test, np.concatenate([fresh, copies])) < without - 1


def test_c_t_refuses_empty_cells():
    train = _rows(11, 60)
    with pytest.raises(ValueError, match="no held-out row"):
        c_t(train, train[:1].repeat(3, 0), _rows(12, 60))
    with pytest.raises(ValueError, match=r"none of 3 cells holds 20 of the 30"):
        c_t(train, _rows(13, 60), _rows(14, 30))
    with pytest.raises(ValueError, match="2 training rows"):
        c_t(train[:2], train, train)


def test_percentiles_equal_scipys():
    train, held, made = _rows(15, 60), _rows(16, 40), 0.9 * _rows(17, 30)
    near = [[min(_dist(x, t) for t in train) for x in rows] for rows in (made, held)]
    want = [stats.percentileofscore(near[1], d, kind="mean") for d in near[0]]
    np.testing.assert_allclose(nearest_percentiles(made, train, held), want, rtol=1e-5)
    assert (nearest_percentiles(train, train, held) == 0).all()
    assert (nearest_percentiles(train + 50, train, held) == 100).all()


def test_equal_distances_count_half():
    np.testing.assert_allclose(percentile_ranks([0, 1, 2, 9], [1, 1, 2, 3]), [0, 25, 62.5, 100])
