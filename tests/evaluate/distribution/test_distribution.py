"""Distribution metrics against float64 references in another formulation, and identities."""

import json

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memjax.evaluate.distribution.frechet import fd_grid
from memjax.evaluate.distribution.summary import distribution_report, fd, fd_infinity, kid, prdc

RTOL = 1e-5  # the project's promise; float64 on both sides is far below it


def _sets(seed, n=60, m=45, d=7, shift=0.4):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) * 1.3 + shift


def _fd_by_matrix_root(a, b):
    sa, sb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(sa @ sb).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(sa + sb - 2 * root)


@pytest.mark.parametrize("seed", range(3))
def test_fd_equals_the_matrix_square_root(seed):
    a, b = _sets(seed)
    assert fd(a, b) == pytest.approx(_fd_by_matrix_root(a, b), RTOL)


def test_fd_of_blocks_equals_fd_at_once(monkeypatch):
    a, b = _sets(4)
    whole = fd(a, b)
    monkeypatch.setattr("memjax.evaluate.distribution.frechet._BLOCK_ROWS", 1)
    assert fd(a, b) == pytest.approx(whole, 1e-12)


def test_fd_closed_form_with_fewer_rows_than_dimensions():
    """A shifted copy has the same covariance, so FD is the squared shift, singular or not."""
    x = np.random.default_rng(0).normal(size=(20, 200))
    assert fd(x, x + 0.5) == pytest.approx(200 * 0.25, 1e-10)
    # scaling by s: tr(Σ)(1 − s)² + ‖μ‖²(1 − s)²
    want = (np.trace(np.cov(x.T)) + np.sum(x.mean(0) ** 2)) * 4
    assert fd(x, 3 * x) == pytest.approx(want, 1e-10)


def test_fd_infinity_is_the_intercept_of_polyfit():
    a, b = _sets(5, 300, 200)
    line = fd_infinity(a, b, seed=3)
    np.testing.assert_array_equal(line.sizes, fd_grid(200))
    assert line.sizes[0] == 100
    assert line.sizes[-1] == 200
    assert line.values[-1] == pytest.approx(_fd_by_matrix_root(a, b), RTOL)
    assert line.value == pytest.approx(np.polyfit(1 / line.sizes, line.values, 1)[1], RTOL)


def test_fd_infinity_takes_the_bias_of_few_rows_away():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(40000, 10)), rng.normal(size=(400, 10))
    # first order in 1/N: (d + d(d + 1)/4)/N = 0.094 at N = 400, d = 10
    assert fd(a, b) == pytest.approx(0.094, rel=0.4)
    assert abs(fd_infinity(a, b).value) < 0.4 * fd(a, b)


def test_grid_starts_at_5000_or_half():
    assert fd_grid(50000)[0] == 5000
    assert fd_grid(4)[0] == 2
    assert len(fd_grid(50000)) == 15


def _mmd_by_double_sum(x, y):
    def kernel(p, q):
        return (sum(i * j for i, j in zip(p, q, strict=True)) / len(p) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j)
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    xy = sum(kernel(p, q) for p in x for q in y)
    return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)


def test_kid_of_whole_sets_equals_the_double_sum():
    a, b = _sets(7, 25, 25, 4)
    found = kid(a, b, num_subsets=3)
    assert found.value == pytest.approx(_mmd_by_double_sum(a, b), RTOL)
    assert found.sd == pytest.approx(0, abs=1e-9 * abs(found.value))
    assert found.subset_size == 25


def test_kid_of_subsets_is_mean_and_spread_of_double_sums():
    a, b = _sets(8, 30, 40, 3)
    rng = np.random.default_rng(11)
    drawn = []
    for _ in range(4):
        x = a[rng.permutation(30)[:10]]
        drawn.append(_mmd_by_double_sum(x, b[rng.permutation(40)[:10]]))
    found = kid(a, b, num_subsets=4, subset_size=10, seed=11)
    np.testing.assert_allclose(found[:2], (np.mean(drawn), np.std(drawn)), RTOL)


def test_kid_of_one_distribution_is_near_zero():
    """Unbiased: over 100 subsets the mean is a few standard errors from 0, on either side."""
    rng = np.random.default_rng(9)
    a, b, far = rng.normal(size=(3, 2000, 16))
    found = kid(a, b, num_subsets=30, subset_size=300)
    assert abs(found.value) < 3 * found.sd / np.sqrt(2000 / 300)
    assert kid(a, far + 1.0, num_subsets=30, subset_size=300).value > 10 * found.sd


def _prdc_by_loops(real, fake, k):
    def dist(p, q):
        return float(np.sqrt(np.sum((p - q) ** 2)))

    def radius(rows):
        return [
            sorted(dist(p, q) for j, q in enumerate(rows) if j != i)[k - 1]
            for i, p in enumerate(rows)
        ]

    ball, fake_ball = radius(real), radius(fake)
    hits = [[dist(g, x) < r for x, r in zip(real, ball, strict=True)] for g in fake]
    back = [[dist(g, x) < r for g, r in zip(fake, fake_ball, strict=True)] for x in real]
    return (
        np.mean([any(row) for row in hits]),
        np.mean([any(row) for row in back]),
        np.mean([sum(row) for row in hits]) / k,
        np.mean([any(column) for column in zip(*hits, strict=True)]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_equals_double_loops(k, monkeypatch):
    a, b = _sets(10, 40, 30, 3)
    want = _prdc_by_loops(a, b, k)
    np.testing.assert_allclose(prdc(a, b, k), want, RTOL)
    monkeypatch.setattr("memjax.evaluate.distribution.prdc._BLOCK_ELEMENTS", 100)
    np.testing.assert_allclose(prdc(a, b, k), want, RTOL)


def test_prdc_identities():
    x = np.random.default_rng(12).normal(size=(50, 6))
    # of x against itself a ball holds its center and the k − 1 nearer neighbors: k in all
    assert prdc(x, x) == (1.0, 1.0, 1.0, 1.0)
    assert prdc(x, x + 1000.0) == (0.0, 0.0, 0.0, 0.0)
    # the surface is outside, with rounding of the expanded form on either side of it
    line = np.arange(8.0)[:, None] * np.ones((1, 3)) + 1e4
    assert prdc(line, line, 1).density == 1.0


def test_identities_of_fd():
    x, _ = _sets(13)
    assert fd(x, x) == pytest.approx(0, abs=1e-10)
    assert fd(x, x[::-1]) == pytest.approx(0, abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_invariance(seed):
    rng = np.random.default_rng(seed)
    a, b = _sets(seed, 24, 20, 4)
    turn = stats.ortho_group(4, seed=seed).rvs()
    assert fd(a @ turn, b @ turn) == pytest.approx(fd(a, b), 1e-8, abs=1e-8)
    assert fd(a, b) == pytest.approx(fd(b, a), 1e-8)
    shuffled = rng.permutation(a), rng.permutation(b)
    assert fd(*shuffled) == pytest.approx(fd(a, b), 1e-9)
    assert prdc(*shuffled, 3) == pytest.approx(prdc(a, b, 3))
    np.testing.assert_allclose(prdc(a @ turn + 2, b @ turn + 2, 3), prdc(a, b, 3))
    one = kid(*shuffled, num_subsets=1, subset_size=20).value  # all of b, 20 rows of a
    whole = kid(rng.permutation(b), b, num_subsets=1).value
    assert np.isfinite(one)
    assert whole == pytest.approx(kid(b, b, num_subsets=1).value, 1e-6, abs=1e-9)


def test_report_holds_the_metrics_and_its_background():
    rng = np.random.default_rng(14)
    train, held = rng.normal(size=(300, 5)), rng.normal(size=(120, 5))
    copies = train[:100] + 1e-3 * rng.normal(size=(100, 5))
    report = json.loads(json.dumps(distribution_report(train, held, copies, features="pixels")))
    assert report["features"] == "pixels"
    assert report["fd"] == pytest.approx(fd(train, copies))
    assert report["fd_infinity"] == pytest.approx(fd_infinity(train, copies).value)
    assert report["background"]["kid"] == pytest.approx(kid(train, held).value)
    assert report["precision"] == 1.0
    assert report["auth_pct"] == 0.0
    assert report["percentile_below_5"] == 1.0
    assert report["c_t"] < -5
    assert abs(report["background"]["c_t"]) < 3
    assert report["background"]["percentile_below_5"] == pytest.approx(0.05, abs=0.01)
    assert report["background"]["auth_pct"] > 30
    counts = report["n_train"], report["n_held_out"], report["n_generated"]
    assert counts == (300, 120, 100)
    assert set(report["background"]) <= set(report)


def test_report_says_what_is_too_small():
    rng = np.random.default_rng(15)
    report = distribution_report(*(rng.normal(size=(n, 12)) for n in (30, 6, 5)))
    said = " ".join(report["warnings"])
    assert "5 generated images for 12 feature dimensions" in said
    assert "6 held-out images for 12" in said
    assert "30 training" not in said
    assert "KID's subsets" in said
    assert "coarse percentiles" in said
    assert "compare KID or FD∞" in said
    assert report["c_t"] is None
    assert "C_T is missing" in said
    assert report["precision"] is None
    assert "precision of generated rows is missing" in said
    json.dumps(report)


def test_a_large_sample_is_not_warned_about(monkeypatch):
    monkeypatch.setattr("memjax.evaluate.distribution.summary._ENOUGH_KID", 100)
    monkeypatch.setattr("memjax.evaluate.distribution.summary._ENOUGH_LINE", 100)
    rng = np.random.default_rng(16)
    sizes = {"train": 120, "held": 110, "made": 110}
    report = distribution_report(*(rng.normal(size=(n, 2)) for n in sizes.values()))
    assert report["warnings"] == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: fd(a[:, :3], b), "3 and 7 dimensions"),
        (lambda a, b: fd(a[:1], b), r"\(1, 7\)"),
        (lambda a, b: fd(a, b[0]), r"\(7,\)"),
        (lambda a, b: kid(a * np.nan, b), "row 0 is not finite"),
        (lambda a, b: fd_infinity(a, b[:3]), "3 rows"),
        (lambda a, b: prdc(a, b[:5]), "60 real and 5 fake"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call(*_sets(17))
