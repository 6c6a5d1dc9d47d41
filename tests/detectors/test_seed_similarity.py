"""Seed-pair similarity against float64 windows one by one, and images known to be alike."""

import jax
import numpy as np
import pytest

from memjax.detectors.seed_similarity import SeedSimilarity, stretched


def draw(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def terms(a, b):
    """Mean ``l · cs`` and ``cs`` of two gray images in [0, 1], window by window, in float64."""
    side = min(a.shape)
    window = min(11, side - 1 + side % 2)
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    weight = np.outer(taps, taps) / np.sum(taps) ** 2
    whole, structure = [], []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            x, y = (z[i : i + window, j : j + window] for z in (a, b))
            mx, my = np.sum(weight * x), np.sum(weight * y)
            vx, vy = (np.sum(weight * (z - m) ** 2) for z, m in ((x, mx), (y, my)))
            xy = np.sum(weight * (x - mx) * (y - my))
            cs = (2 * xy + 0.03**2) / (vx + vy + 0.03**2)
            structure.append(cs)
            whole.append(cs * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2))
    return np.mean(whole), np.mean(structure)


def halved(x):
    h, w = (n // 2 * 2 for n in x.shape)
    x = x[:h, :w]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def similarity(a, b, scales):
    values = []
    for c in range(a.shape[-1]):
        x, y = (z[..., c].astype(np.float64) for z in (a, b))
        x, y = ((z - z.min()) / (z.max() - z.min()) for z in (x, y))
        total = 1.0
        for scale in range(scales):
            whole, structure = terms(x, y)
            mean = whole if scale == scales - 1 else structure
            total *= mean if scales == 1 else max(mean, 0.0) ** (1 / scales)
            x, y = halved(x), halved(y)
        values.append(total)
    return np.mean(values)


def pairs(images, scales):
    g = len(images)
    return [similarity(images[i], images[j], scales) for i in range(g) for j in range(i + 1, g)]


@pytest.mark.parametrize(("side", "scales"), [(8, 1), (13, 1), (24, 2)])
def test_it_is_the_most_alike_pair(side, scales):
    images = draw(0, 2, 3, side, side + 1, 2)
    images[:, 1] = 0.7 * images[:, 0] + 0.3 * images[:, 1]  # so that scales are not cut at 0
    images[:, 2] = 0.5 * images[:, 0] + 0.5 * images[:, 2]
    expected = np.array([pairs(of, scales) for of in images])
    for over, value in (("max", expected.max(axis=1)), ("mean", expected.mean(axis=1))):
        detector = SeedSimilarity(over=over)
        found = jax.jit(lambda x, d=detector: d(x, None))(images)
        np.testing.assert_allclose(found, value, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(detector(images, None), found, rtol=1e-5, atol=1e-6)


def test_a_prompt_that_repeats_one_image_scores_one_and_level_does_not_matter():
    image = draw(1, 16, 16, 1)
    same = np.stack([image, 0.4 * image + 0.3, draw(2, 16, 16, 1)])
    other = draw(3, 3, 16, 16, 1)
    found = SeedSimilarity()(np.stack([same, other]), None)
    np.testing.assert_allclose(found[0], 1.0, atol=1e-5)
    assert found[1] < 0.5
    assert SeedSimilarity(stretch=False)(same[None], None)[0] < 0.999


def test_flat_images_are_alike_and_finite():
    np.testing.assert_allclose(stretched(np.full((2, 4, 4, 1), 0.3)), -1.0)
    np.testing.assert_allclose(SeedSimilarity()(np.zeros((1, 2, 8, 8, 1)), None), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("scales", "side", "said"),
    [(0, 16, "scales is 0, expected at least 1"), (3, 2, r"images of \(2, 2\) .*expected 3")],
)
def test_what_it_cannot_compare_is_refused(scales, side, said):
    with pytest.raises(ValueError, match=f"SeedSimilarity.*{said}"):
        SeedSimilarity(scales=scales)(np.zeros((1, 2, side, side, 1), np.float32), None)
