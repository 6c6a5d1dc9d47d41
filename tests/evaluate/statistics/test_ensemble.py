"""The ensemble of detectors on scores whose best combination is known."""

import numpy as np
import pytest
from scipy import optimize, stats

from memjax.evaluate.statistics.ensemble import ensemble
from memjax.evaluate.statistics.roc import auc


def draw(seed, memorized=100, others=100, shift=1.0, detectors=3):
    """Independent normal scores, each of which moves by ``shift`` where a row is memorized."""
    rng = np.random.default_rng(seed)
    y = np.arange(memorized + others) < memorized
    x = rng.normal(size=(y.size, detectors)) + shift * y[:, None]
    return {f"d{k}": x[:, k] for k in range(detectors)}, y


def test_complementary_scores_do_better_together_than_the_best_alone():
    gains, areas = [], []
    for seed in range(10):
        scores, y = draw(seed)
        areas.append(auc(ensemble(scores, y).scores, y))
        gains.append(areas[-1] - max(auc(of, y) for of in scores.values()))
    assert min(gains) > 0
    # The best rule is the sum: d' = √3, so that AUC = Φ(√3 / √2). Ten times 100 + 100 rows have a
    # standard error of 0.0067; the fits lose a little.
    np.testing.assert_allclose(np.mean(areas), stats.norm.cdf(np.sqrt(1.5)), atol=0.02)


def test_scores_that_say_nothing_stay_at_one_half_with_either_kind_rare():
    for memorized, others in ((60, 60), (20, 100)):
        areas = []
        for seed in range(20):
            scores, y = draw(seed, memorized, others, shift=0.0)
            areas.append(auc(ensemble(scores, y, seed=seed, folds=3).scores, y))
        # One area has a standard error of √((m + n + 1) / (12 m n)): 0.053 and 0.071; the mean of
        # 20 of them 0.012 and 0.016.
        np.testing.assert_allclose(np.mean(areas), 0.5, atol=0.04)


def test_rows_of_a_group_are_left_out_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    y = np.repeat(rng.permutation(40) < 20, 5)
    # Each group has values of its own, which say nothing of another group.
    own = rng.normal(size=(40, 8))[groups] + 0.01 * rng.normal(size=(200, 8))
    scores = {f"d{k}": own[:, k] for k in range(8)}
    found = ensemble(scores, y, groups)
    assert all(np.unique(found.fold[groups == g]).size == 1 for g in range(40))
    assert sorted(np.unique(found.fold)) == [0, 1, 2, 3, 4]
    apart = ensemble(scores, y, strength=100.0)
    together = ensemble(scores, y, groups, strength=100.0)
    # Told apart, a row's twins give its label away.
    assert auc(apart.scores, y) > auc(together.scores, y) + 0.1


def test_a_fold_is_scored_by_the_regression_of_the_others():
    scores, y = draw(3, memorized=30, others=60)
    found = ensemble(scores, y, folds=3, strength=0.5)
    x = np.stack([scores[name] for name in found.names], axis=1)
    for fold in range(3):
        known = found.fold != fold
        mean, sd = x[known].mean(axis=0), x[known].std(axis=0)
        z, sign = (x - mean) / sd, np.where(y, 1, -1)
        share = np.where(y[known], 0.5 / y[known].mean(), 0.5 / (~y[known]).mean())

        def loss(w, z=z, sign=sign, known=known, share=share):
            margin = sign[known] * (z[known] @ w[:-1] + w[-1])
            return np.sum(share * np.logaddexp(0, -margin)) + w[:-1] @ w[:-1] / (2 * 0.5)

        w = optimize.minimize(loss, np.zeros(4)).x
        # The two optimizers stop where gradients are below 1e-4 and 1e-5.
        np.testing.assert_allclose(found.weights[fold], w[:-1], atol=1e-3)
        np.testing.assert_allclose(found.scores[~known], z[~known] @ w[:-1] + w[-1], atol=1e-2)


def test_units_and_a_detector_that_never_changes_do_not_matter():
    scores, y = draw(1)
    found = ensemble(scores, y)
    scaled = {"d0": 1e4 * scores["d0"] - 7, "d1": scores["d1"], "d2": scores["d2"]}
    np.testing.assert_allclose(ensemble(scaled, y).scores, found.scores, atol=1e-3)
    flat = ensemble({**scores, "flat": np.full(y.size, 2.0)}, y)
    np.testing.assert_allclose(flat.scores, found.scores, atol=1e-3)
    np.testing.assert_allclose(flat.weights[:, 3], 0.0, atol=1e-6)
    np.testing.assert_array_equal(ensemble(scores, y).scores, found.scores)


def refused(scores=None, labels=None, groups=None, **options):
    known, y = draw(0, 6, 6)
    ensemble(
        known if scores is None else scores, y if labels is None else labels, groups, **options
    )


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ({"scores": {}}, "got no detector"),
        ({"scores": {"d": np.zeros(3)}}, r"scores of d have shape \(3,\), expected \(12,\)"),
        ({"scores": {"d": np.r_[np.nan, np.zeros(11)]}}, "score 0 of d is nan"),
        ({"groups": np.arange(3)}, r"groups \(3,\), expected one of each a row"),
        ({"folds": 7}, "folds is 7, expected between 2 and the 6 groups"),
        ({"folds": 1}, "folds is 1, expected between 2"),
        ({"labels": np.zeros(12)}, "and the 0 groups of the rarer kind"),
        ({"groups": np.zeros(12)}, "and the 1 groups of the rarer kind"),
        ({"strength": 0.0}, "strength is 0.0"),
    ],
)
def test_bad_input_is_refused(job, sentence):
    with pytest.raises(ValueError, match=sentence):
        refused(**job)
