"""Features: normalizers by hand, and what a feature function may not return."""

import jax
import numpy as np
import pytest

from memjax.evaluate.features.base import (
    FindingFeatures,
    NamedFeatures,
    PixelFeatures,
    centered,
    extract,
    in_chunks,
    unit_length,
)
from memjax.evaluate.features.finding_classifier import Judge
from memjax.models.classifier import FindingClassifier


def rows(n=6, d=40, seed=0):
    return np.random.default_rng(seed).normal(3.0, 1.0, (n, d)).astype(np.float32)


def test_products_of_normalised_rows_are_cosines_and_correlations():
    a = rows()
    double = a.astype(np.float64)
    norm = np.linalg.norm(double, axis=1)
    cosine = double @ double.T / norm[:, None] / norm[None]
    # 1e-6: the rows are stored as float32
    np.testing.assert_allclose(unit_length(a) @ unit_length(a).T, cosine, rtol=1e-6)
    np.testing.assert_allclose(centered(a) @ centered(a).T, np.corrcoef(double), atol=1e-6)


def test_centred_ignores_contrast_and_brightness():
    a = rows()
    np.testing.assert_allclose(centered(0.3 * a - 7.0), centered(a), atol=1e-5)
    np.testing.assert_allclose(centered(-a), -centered(a), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1.0, 1e-20])
def test_rows_without_contrast_become_zeros(value):
    flat = np.full((2, 30), value, np.float32)
    np.testing.assert_array_equal(centered(flat), 0.0)
    assert np.isfinite(unit_length(flat)).all()


def test_chunks_change_nothing_and_trace_once():
    a = np.random.default_rng(1).normal(size=(11, 4, 4, 1)).astype(np.float32)
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return 2 * x.reshape(len(x), -1)

    np.testing.assert_array_equal(in_chunks(double, a, 4), 2 * a.reshape(11, -1))
    assert set(shapes) == {(4, 4, 4, 1)}


def test_finding_features_are_what_the_logits_are_linear_in():
    module = FindingClassifier(3, width=8)
    params = module.init_params(jax.random.key(0), 16)
    judge = Judge(module, params, ("a", "b", "c"), np.full(3, 0.5), np.ones(3), np.ones(3, bool))
    images = np.random.default_rng(2).uniform(-1, 1, (5, 16, 16, 1)).astype(np.float32)
    found = extract(FindingFeatures(judge), images)
    assert found.shape == (5, 64)
    logits = found @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    want = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(judge.probabilities(images), want, rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x, "shape .* expected one row"),
        (lambda x: x.reshape(len(x), -1)[1:], "for 3 images"),
        (lambda x: np.full((len(x), 2), np.nan), "not finite"),
    ],
)
def test_errors_name_the_feature_function(function, words):
    with pytest.raises(ValueError, match=f"my weights returned.*{words}"):
        extract(NamedFeatures("my weights", function), np.zeros((3, 4, 4, 1), np.float32))


def test_pixels_are_the_pixels():
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    np.testing.assert_array_equal(PixelFeatures()(images), np.arange(24).reshape(2, 12))
