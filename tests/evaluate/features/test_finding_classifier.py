"""The judge: agreement by hand, and that it learns what can be seen."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.evaluate.features.finding_classifier import Judge, train_judge


@dataclasses.dataclass(frozen=True)
class ByHand:
    """Logit of finding f is a hundred times the pixel in column f of the first row."""

    outputs: int

    def apply(self, variables, images):
        return 100.0 * images[:, 0, : self.outputs, 0] * variables["params"]


def judge_by_hand(reliable):
    count = len(reliable)
    names = tuple("abc"[:count])
    return Judge(
        ByHand(count),
        jnp.float32(1.0),
        names,
        np.full(count, 0.5),
        np.full(count, 0.9),
        np.asarray(reliable),
    )


def pictures(*rows):
    """Images that show (1) or do not show (0) each finding."""
    images = np.zeros((len(rows), 4, 4, 1), np.float32)
    for image, row in zip(images, rows, strict=True):
        image[0, : len(row), 0] = np.where(np.asarray(row) == 1, 1.0, -1.0)
    return images


@pytest.mark.parametrize(
    ("seen", "asked", "expected"),
    [
        ((1, 0, 1), (1, 0, 1), 1.0),
        ((1, 0, 1), (0, 1, 0), 0.0),
        ((1, 0, 1), (1, 1, -1), 0.5),
        ((1, 1, 1), (-1, 0, -1), 0.0),
        ((1, 1, 1), (-1, -1, 1), 1.0),
        ((1, 1, 1), (-1, -1, -1), np.nan),
    ],
)
def test_agreement_is_the_share_of_what_was_asked(seen, asked, expected):
    found = judge_by_hand([True] * 3).agreement(pictures(seen), np.asarray([asked]))
    np.testing.assert_array_equal(found, [expected])


def test_unreliable_findings_are_not_judged():
    judge = judge_by_hand([False, True, False])
    found = judge.agreement(pictures((0, 1, 0), (0, 1, 0)), np.asarray([(1, 1, 1), (1, -1, 1)]))
    np.testing.assert_array_equal(found, [1.0, np.nan])


def test_probabilities_do_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.02, 0.02, (300, 4, 4, 1)).astype(np.float32)
    found = judge_by_hand([True] * 2).probabilities(images)
    expected = 1 / (1 + np.exp(-100.0 * images[:, 0, :2, 0].astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def halves(rng, count):
    """Finding 0: the left half is bright. Finding 1: a coin. Finding 2: too rare to judge."""
    targets = rng.integers(0, 2, (count, 3)).astype(np.int32)
    targets[:, 2] = 0
    targets[0, 2] = 1
    images = 0.2 * rng.standard_normal((count, 16, 16, 1)).astype(np.float32)
    images[:, :, :8] += np.where(targets[:, 0] == 1, 0.8, -0.8)[:, None, None, None]
    return images, targets


@pytest.fixture(scope="module")
def learned():
    rng = np.random.default_rng(0)
    images, targets = halves(rng, 96)
    held, held_targets = halves(rng, 60)
    targets[:10, 0] = -1  # uncertain rows carry no loss
    settings = {"steps": 40, "batch_size": 16, "width": 8}
    names = ("bright", "coin", "rare")
    return train_judge(images, targets, held, held_targets, names, **settings), halves(rng, 40)


def test_it_learns_a_pattern_and_trusts_nothing_else(learned):
    judge, (images, targets) = learned
    assert judge.names == ("bright", "coin", "rare")
    assert judge.held_out_auc[0] > 0.99
    assert judge.held_out_auc[1] < 0.8
    assert np.isnan(judge.held_out_auc[2])
    assert judge.reliable.tolist() == [True, False, False]
    asked = np.where(np.arange(3) == 0, targets, -1)
    assert judge.agreement(images, asked).mean() > 0.85
    assert judge.agreement(images, np.where(asked < 0, asked, 1 - asked)).mean() < 0.15


def test_thresholds_are_probabilities(learned):
    judge, _ = learned
    assert np.all((judge.threshold >= 0) & (judge.threshold <= 1))
    assert judge.threshold[2] == 0.5  # too few images to choose one
