"""The ladder: thresholds per class, published rules, backgrounds, and refusals."""

import numpy as np
import pytest

from memjax.evaluate.features.base import NamedFeatures
from memjax.evaluate.similarity.ladder import (
    apply_ladder,
    calibrate_ladder,
    feature_rung,
    fit_thresholds,
    measure_ladder,
    pixel_rungs,
)
from memjax.evaluate.similarity.measures import Nearest, Rung

SHAPE = (24, 24, 1)


def pictures(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def by_hand(name="by_hand", **options):
    """A rung whose similarity is the image's own top left pixel."""

    def build(train, owner):
        return lambda q, query_owner: Nearest(q[:, 0, 0, 0].astype(float), np.zeros(len(q), int))

    return Rung(name, "By hand", "L0", build, **options)


def marked(values):
    images = np.zeros((len(values), 4, 4, 1), np.float32)
    images[:, 0, 0, 0] = values
    return images


def test_thresholds_are_percentiles_of_each_class_with_enough_images():
    rng = np.random.default_rng(0)
    values, strata = rng.normal(size=100), np.repeat(["a", "b", "c"], [60, 21, 19])
    found = fit_thresholds(values, strata)
    assert found.pooled == np.percentile(values, 95)
    assert found.of_class == {
        "a": np.percentile(values[:60], 95),
        "b": np.percentile(values[60:81], 95),
    }
    want = [found.of_class["b"], found.pooled, found.pooled]
    np.testing.assert_array_equal(found.of(["b", "c", "never seen"], 3), want)
    np.testing.assert_array_equal(found.of(None, 2), [found.pooled] * 2)


def test_images_without_an_eligible_neighbour_do_not_move_the_threshold():
    values = np.array([0.1, 0.2, -np.inf, 0.3])
    assert fit_thresholds(values).pooled == np.percentile([0.1, 0.2, 0.3], 95)
    assert fit_thresholds(values).num_held_out == 3
    with pytest.raises(ValueError, match="none of 2 held-out images"):
        fit_thresholds(np.full(2, -np.inf))


def test_each_class_is_judged_by_its_own_background():
    held = marked(np.concatenate([np.linspace(0, 0.1, 30), np.linspace(0.5, 0.6, 30)]))
    classes = np.repeat(["low", "high"], 30)
    q = marked([0.3, 0.3, 0.7, 0.7])
    strata = ["low", "high", "low", "high"]
    of_class = measure_ladder(
        [by_hand()], q, held, held_out=held, strata=strata, held_strata=classes
    )["by_hand"]
    np.testing.assert_array_equal(of_class.is_copy, [True, False, True, True])
    assert of_class.threshold == pytest.approx((0.095 + 0.595) / 2, abs=1e-3)
    assert of_class.background_is_copy.sum() == 4  # the highest 2 of each 30
    assert "of its class" in of_class.rule
    pooled = measure_ladder([by_hand()], q, held, held_out=held)["by_hand"]
    np.testing.assert_array_equal(pooled.is_copy, [False, False, True, True])
    assert "of its class" not in pooled.rule
    assert "60 held out" in pooled.rule


def test_published_rules_are_not_calibrated():
    held = marked(np.full(30, 0.9))
    at_least = by_hand("at_least", published=0.5, inclusive=True, rule="at least a half")
    above = by_hand("above", published=0.5, rule="above a half")
    found = measure_ladder([at_least, above], marked([0.4, 0.5, 0.6]), held, held_out=held)
    np.testing.assert_array_equal(found["at_least"].is_copy, [False, True, True])
    np.testing.assert_array_equal(found["above"].is_copy, [False, False, True])
    assert found["above"].threshold == 0.5
    assert found["above"].background_is_copy.all()
    assert found["above"].rule == "above a half"


def test_few_held_out_images_are_said():
    found = measure_ladder([by_hand()], marked([1.0]), marked([0, 0]), held_out=marked([0, 1, 2]))
    assert "3 held out, too few to trust" in found["by_hand"].rule


@pytest.fixture(scope="module")
def planted():
    """Two copies and eight new images against 60 training images; two held-out follow-ups."""
    train = pictures(60)
    q = np.concatenate([np.clip(train[[4, 31]] + 0.1 * pictures(2, 8), -1, 1), pictures(8, 9)])
    held = np.concatenate([train[:2], pictures(40, 10)])
    rungs = pixel_rungs(SHAPE)
    patients, held_patients = np.arange(60), np.concatenate([[0, 1], np.arange(100, 140)])
    sides = {"train_patients": patients, "held_patients": held_patients}
    found = measure_ladder(rungs, q, train, held_out=held, **sides)
    return rungs, q, train, held, found, sides


def test_every_pixel_rung_finds_noisy_copies_and_no_patient_of_its_own(planted):
    _, _, _, _, found, _ = planted
    assert list(found) == [
        "pixel_l2", "adaptive_l2", "nearest_third", "pearson", "ncc", "ssim", "ms_ssim",
    ]  # fmt: skip
    for name, result in found.items():
        assert result.is_copy[:2].all(), name
        np.testing.assert_array_equal(result.index[:2], [4, 31])
        assert result.is_copy[2:].sum() <= 2, name
        # held-out rows 0 and 1 are training images of their own patient
        assert result.background[:2].max() < result.similarity[:2].min(), name
        assert result.background_is_copy.mean() <= 0.08, name
        assert np.isfinite(result.threshold)


def test_a_calibrated_ladder_is_used_again(planted):
    rungs, q, train, held, found, sides = planted
    ladder = calibrate_ladder(rungs[:4], train, held_out=held, **sides)
    again = apply_ladder(ladder, q[::-1])
    for name, result in again.items():
        np.testing.assert_allclose(result.similarity[::-1], found[name].similarity, rtol=1e-6)
        np.testing.assert_array_equal(result.is_copy[::-1], found[name].is_copy)
        assert result.rule == found[name].rule


def test_user_features_are_asked_once_for_the_training_images():
    asked = []

    def features(images):
        asked.append(len(images))
        return images.reshape(len(images), -1)

    rung = feature_rung(NamedFeatures("mine", features), name="mine")
    train = pictures(30)
    found = measure_ladder([rung], train[:3], train, held_out=pictures(25, 4))["mine"]
    assert sorted(asked) == [3, 25, 30]
    assert found.is_copy.all()
    assert found.title == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strata": ["a"] * 3}, "without held_strata"),
        ({"strata": ["a"], "held_strata": ["a"] * 4}, "strata has 1 entries for 3"),
        ({"held_strata": ["a"]}, "held_strata has 1 entries for 4"),
        ({"train_patients": [1]}, "train_patients has 1 entries for 6"),
        ({"held_patients": [1] * 4}, "without train_patients"),
        ({"held_out": pictures(4, shape=(8, 8, 1))}, "held-out images have shape"),
        ({"held_out": pictures(0)}, "0 held-out images"),
        ({"queries": pictures(3)[..., 0]}, "queries have shape"),
        ({"train": pictures(1)}, "1 training images"),
        ({"rungs": [by_hand(), by_hand()]}, "two rungs are called 'by_hand'"),
    ],
)
def test_errors_name_the_value(change, words):
    settings = {
        "rungs": [by_hand()],
        "queries": pictures(3),
        "train": pictures(6),
        "held_out": pictures(4),
    }
    settings |= change
    rungs, queries, train = (settings.pop(name) for name in ("rungs", "queries", "train"))
    with pytest.raises(ValueError, match=words):
        measure_ladder(rungs, queries, train, **settings)
