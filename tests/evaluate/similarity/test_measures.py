"""Likeness to a prompt's own training images, and images kept as bytes."""

import dataclasses
import itertools

import numpy as np
import pytest

from memjax.data.images import to_uint8
from memjax.evaluate.features.base import NamedFeatures
from memjax.evaluate.similarity.measures import (
    FeatureLikeness,
    PixelCorrelation,
    TiledDistance,
    features_of,
    likeness_of,
    rows_of,
    summary_of,
    weightless,
)
from memjax.evaluate.similarity.resolution import as_bytes, as_unit, reduced

RNG = np.random.default_rng(0)


def smooth(n, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(-1, 1, (n, 4, 4, 3)), np.ones((1, side // 4, side // 4, 1)))


def mean_color(images):
    assert images.dtype != np.uint8  # networks are given floats
    return np.asarray(images, np.float64).mean(axis=(1, 2))


COLOUR = FeatureLikeness("sscd", NamedFeatures("mean color (as it is)", mean_color))


def test_feature_likeness_is_the_largest_cosine_over_the_references():
    made, real = smooth(5), smooth(3, seed=1)
    a, b = mean_color(made), mean_color(real)
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]
    np.testing.assert_allclose(
        likeness_of(COLOUR, made, real), cosine.max(axis=1), rtol=1e-5
    )  # float32 rows
    assert COLOUR.name == "mean color (as it is)"


def test_features_of_bytes_are_those_of_floats_and_come_in_pieces():
    calls = []

    def counted(images):
        calls.append(len(images))
        return mean_color(images)

    pictures = as_bytes(smooth(70))
    found = features_of(NamedFeatures("counted", counted), pictures)
    assert max(calls) <= 32
    assert sum(calls) == 70
    np.testing.assert_allclose(found, mean_color(as_unit(pictures)), atol=1e-6)


def test_pixel_correlation_is_numpys_and_knows_a_copy():
    made, real = smooth(4), smooth(2, seed=1)
    expected = np.corrcoef(made.reshape(4, -1), real.reshape(2, -1))[:4, 4:].max(axis=1)
    np.testing.assert_allclose(likeness_of(PixelCorrelation(64), made, real), expected, atol=1e-5)
    copy = likeness_of(
        PixelCorrelation(16), real * 0.5 + 0.1, real
    )  # contrast and brightness do not count
    np.testing.assert_allclose(copy, 1.0, atol=1e-5)


@pytest.mark.parametrize("side", [32, 30])
def test_tiled_distance_is_the_worst_tile_of_the_best_reference(side):
    made, real = (RNG.uniform(-1, 1, (n, side, side, 3)) for n in (3, 2))
    edges = np.linspace(0, side, 5).astype(int)
    expected = []
    for a in made:
        worst = []
        for b in real:
            tiles = [
                np.sqrt((((a - b)[t:u, v:w] / 2) ** 2).mean())
                for t, u in itertools.pairwise(edges)
                for v, w in itertools.pairwise(edges)
            ]
            worst.append(max(tiles))
        expected.append(-min(worst))
    np.testing.assert_allclose(likeness_of(TiledDistance(), made, real), expected, rtol=1e-9)


def test_one_differing_tile_counts_in_full():
    real = np.zeros((1, 32, 32, 3))
    made = real.copy()
    made[:, :8, :8] = 1.0
    assert likeness_of(TiledDistance(), made, real)[0] == pytest.approx(-0.5)


def test_bytes_and_floats_are_measured_alike():
    made, real = smooth(3), smooth(2, seed=1)
    assert set(rows_of(weightless(), made)) == {"pixel_correlation", "tiled_distance"}
    for measure in weightless():
        kept = likeness_of(measure, as_bytes(made), as_bytes(real))
        floats = likeness_of(measure, as_unit(as_bytes(made)), as_unit(as_bytes(real)))
        np.testing.assert_allclose(kept, floats, atol=1e-6)


def test_summary_is_mean_least_and_largest():
    assert summary_of(np.asarray([0.5, 0.1, 0.9]))._asdict() == {
        "mean": pytest.approx(0.5),
        "min": 0.1,
        "max": 0.9,
    }


@pytest.mark.parametrize("measure", weightless())
def test_images_of_another_shape_are_refused(measure):
    with pytest.raises(ValueError, match="resize the training images"):
        likeness_of(measure, np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 9, 3)))


def test_reduced_images_keep_their_mean_and_small_ones_their_size():
    images = smooth(20, side=64)
    small = reduced(images, 16)
    assert small.shape == (20, 16, 16, 3)
    np.testing.assert_allclose(small.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.02)
    assert reduced(images, 64) is images
    assert reduced(images, 0) is images
    wide = reduced(np.zeros((1, 40, 80, 1), np.float32), 10)
    assert wide.shape == (1, 10, 20, 1)


def test_bytes_round_and_hold_no_nan():
    images = np.asarray([[-1.0, 0.0, 1.0, np.nan, 2.0]])
    assert as_bytes(images).tolist() == [[0, 128, 255, 0, 255]]
    same = to_uint8(images[:, :3])
    assert as_bytes(same) is same
    np.testing.assert_allclose(as_unit(same), [[-1, 0.003921569, 1]], atol=1e-6)


def test_measures_are_plain_values():
    assert PixelCorrelation(8) == dataclasses.replace(PixelCorrelation(), side=8)
    assert "short side 8" in PixelCorrelation(8).name
