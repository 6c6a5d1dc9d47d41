"""ROC figures against scikit-learn, closed forms and a plain bootstrap."""

import time

import numpy as np
import pytest
from sklearn import metrics

from memjax.evaluate.statistics.roc import (
    auc,
    bootstrap_interval,
    detection_summary,
    difference_interval,
    rate_interval,
    roc_curve,
    tpr_at_fpr,
)


def _scores(seed, n=120, ties=False, shift=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    scores = rng.normal(size=n) + shift * labels
    return (np.round(scores * 2) / 2 if ties else scores), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_auc_and_curve_equal_sklearn(seed, ties):
    scores, labels = _scores(seed, ties=ties)
    assert float(auc(scores, labels)) == pytest.approx(metrics.roc_auc_score(labels, scores), 1e-12)
    fpr, tpr, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
    ours = roc_curve(scores, labels)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(ours.thresholds, thresholds)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_fpr", [0.0, 0.01, 0.1])
def test_tpr_is_the_largest_within_the_limit(seed, max_fpr):
    scores, labels = _scores(seed, n=300, ties=True)
    best = 0.0
    for threshold in [*np.unique(scores), np.inf]:
        called = scores >= threshold
        if called[~labels].mean() <= max_fpr:
            best = max(best, called[labels].mean())
    assert float(tpr_at_fpr(scores, labels, max_fpr=max_fpr)) == pytest.approx(best)


def test_exactly_one_percent_is_allowed():
    scores = np.r_[np.arange(100), 98.5, 98.2, 50.0]
    labels = np.r_[np.zeros(100), 1, 1, 1]
    # one of 100 others (99) lies above the two best memorized: FPR = 1 % exactly
    assert float(tpr_at_fpr(scores, labels)) == pytest.approx(2 / 3)
    assert float(tpr_at_fpr(scores, labels, max_fpr=0.009)) == 0.0


def test_higher_means_memorised():
    labels = np.r_[np.ones(5), np.zeros(5)]
    scores = np.r_[np.arange(5, 10), np.arange(5)]
    assert float(auc(scores, labels)) == 1.0
    assert float(auc(-scores, labels)) == 0.0
    assert float(auc(np.zeros(10), labels)) == 0.5


def test_weights_equal_repeated_rows():
    scores, labels = _scores(5, n=40, ties=True)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (6, 40)).astype(float)
    for got_auc, got_tpr, w in zip(
        auc(scores, labels, weights),
        tpr_at_fpr(scores, labels, weights, max_fpr=0.2),
        weights.astype(int),
        strict=True,
    ):
        s, y = np.repeat(scores, w), np.repeat(labels, w)
        assert got_auc == pytest.approx(metrics.roc_auc_score(y, s), 1e-12)
        assert got_tpr == pytest.approx(float(tpr_at_fpr(s, y, max_fpr=0.2)), 1e-12)


def test_interval_agrees_with_a_plain_bootstrap():
    scores, labels = _scores(6, n=100, shift=0.8)
    rng = np.random.default_rng(1)
    yes, no = np.flatnonzero(labels), np.flatnonzero(~labels)
    drawn = []
    for _ in range(1500):
        rows = np.r_[rng.choice(yes, yes.size), rng.choice(no, no.size)]
        above = scores[rows[: yes.size], None] > scores[rows[yes.size :]]
        drawn.append(above.mean())
    got = bootstrap_interval(auc, scores, labels, n=4000, seed=0)
    # both ends carry Monte Carlo error of about sd/√(n·density) ≈ 0.004 here
    np.testing.assert_allclose(got[1:], np.percentile(drawn, [2.5, 97.5]), atol=0.015)
    assert got.low < got.value < got.high


def test_clusters_widen_the_interval():
    """Four equal generations of a prompt are one observation, not four."""
    scores, labels = _scores(7, n=60, shift=0.8)
    four = np.repeat(scores, 4), np.repeat(labels, 4)
    apart = bootstrap_interval(auc, *four, n=1000)
    together = bootstrap_interval(auc, *four, np.repeat(np.arange(60), 4), n=1000)
    single = bootstrap_interval(auc, scores, labels, n=1000)
    assert together.high - together.low > 1.6 * (apart.high - apart.low)
    assert together == pytest.approx(single)


def test_summary_has_the_report_fields_and_is_reproducible():
    scores, labels = _scores(8, n=80)
    prompts = [f"prompt {i // 2}" for i in range(80)]
    labels = np.repeat(labels[::2], 2)
    got = detection_summary(scores, labels, prompts, n=300, seed=4)
    assert got == detection_summary(scores, labels, prompts, n=300, seed=4)
    assert got != detection_summary(scores, labels, prompts, n=300, seed=5)
    assert got["num_memorized"] == labels[::2].sum()
    assert got["num_memorized"] + got["num_other"] == 40
    assert got["auc"] == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert got["auc_low"] <= got["auc"] <= got["auc_high"]
    assert got["tpr_low"] <= got["tpr_at_1pct_fpr"] <= got["tpr_high"]


def test_bootstrap_is_fast():
    scores, labels = _scores(9, n=200)
    bootstrap_interval(auc, scores, labels, n=10)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        bootstrap_interval(auc, scores, labels, n=2000)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2


def test_rate_interval():
    values = np.r_[np.ones(30), np.zeros(70)]
    got = rate_interval(values, n=4000)
    # normal approximation: .3 ± 1.96·√(.3·.7/100) = .3 ± .0898
    np.testing.assert_allclose(got, [0.3, 0.2102, 0.3898], atol=0.012)
    assert got.value == 0.3


def test_rate_interval_at_the_edge_is_the_exact_one():
    """0 of 20: Clopper–Pearson's upper end is 1 − 0.025^(1/20)."""
    none = rate_interval(np.zeros(20))
    assert none == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 20)))
    every = rate_interval(np.ones(20), clusters=np.repeat(np.arange(5), 4))
    assert every == pytest.approx((1.0, 0.025 ** (1 / 5), 1.0))


def test_paired_difference_uses_the_pairs():
    rng = np.random.default_rng(2)
    before = rng.normal(size=200)
    after = before - 0.5 + 0.01 * rng.normal(size=200)
    got = difference_interval(before, after)
    assert got.value == pytest.approx((after - before).mean())
    assert got.high - got.low < 0.01


def test_percentile_level():
    values = np.random.default_rng(3).random(80)
    wide, narrow = rate_interval(values), rate_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: auc([1.0, 2.0], [1, 1]), "2 of 2 prompts are memorized"),
        (lambda: auc([1.0, np.nan], [1, 0]), "score 1 is NaN"),
        (lambda: auc(np.zeros((2, 3)), [1, 0]), r"shape \(2, 3\)"),
        (lambda: bootstrap_interval(auc, [1.0, 2.0], [1, 0], ["a", "a"]), "both labels"),
        (lambda: bootstrap_interval(auc, [1.0, 2.0], [1, 0], ["a"]), "1 clusters"),
        (lambda: rate_interval([]), "0 values"),
        (lambda: difference_interval([1, 0], [1]), "2 rows before and 1 after"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
