"""SSIM and MS-SSIM against float64 NumPy with a two-dimensional window, pixel by pixel."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from memjax.evaluate.similarity import ssim
from memjax.evaluate.similarity.ssim import scale_weights, structural_similarity

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def pictures(n, side, seed=0, channels=1):
    """Smooth images with a flat part, and versions that resemble them."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (n, side // 4 + 1, side // 4 + 1, channels))
    x = np.kron(coarse, np.ones((1, 4, 4, 1)))[:, :side, :side]
    x[:, : side // 3] = -0.9
    y = np.clip(0.7 * x + 0.3 * rng.uniform(-1, 1, x.shape), -1, 1)
    return x.astype(np.float32), y.astype(np.float32)


def reference_terms(x, y, window=11):
    """Maps of luminance and contrast-structure of two [h, w] images in [0, 1]."""
    at = np.arange(window) - window // 2
    taps = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(z):
        return np.einsum("uvij,ij->uv", sliding_window_view(z, (window, window)), taps)

    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return luminance, (2 * cov + c2) / (vx + vy + c2)


def reference(x, y, weights=(1.0,), window=11):
    x, y = ((z.astype(np.float64) + 1) / 2 for z in (x, y))
    parts = []
    for channel in range(x.shape[-1]):
        a, b, total = x[..., channel], y[..., channel], 1.0
        for scale, weight in enumerate(weights):
            luminance, structure = reference_terms(a, b, window)
            if scale == len(weights) - 1:
                structure = luminance * structure
            value = structure.mean()
            total = value if len(weights) == 1 else total * max(value, 0.0) ** weight
            h, w = a.shape[0] // 2 * 2, a.shape[1] // 2 * 2
            a, b = (
                (z[:h:2, :w:2] + z[1:h:2, :w:2] + z[:h:2, 1:w:2] + z[1:h:2, 1:w:2]) / 4
                for z in (a, b)
            )
        parts.append(total)
    return np.mean(parts)


@pytest.mark.parametrize(("side", "channels"), [(32, 1), (33, 3), (64, 1)])
def test_ssim_equals_the_reference(side, channels):
    x, y = pictures(3, side, channels=channels)
    want = [[reference(a, b) for b in y] for a in x]
    np.testing.assert_allclose(structural_similarity(x, y), want, rtol=1e-5)


@pytest.mark.parametrize("side", [32, 47, 176])
def test_ms_ssim_equals_the_reference(side):
    x, y = pictures(1 if side > 100 else 2, side, seed=1)
    weights = scale_weights(side)
    want = [[reference(a, b, weights) for b in y] for a in x]
    np.testing.assert_allclose(structural_similarity(x, y, weights=weights), want, rtol=1e-5)


def test_small_images_get_a_smaller_window():
    x, y = pictures(2, 8, seed=2)
    want = [[reference(a, b, window=7) for b in y] for a in x]
    np.testing.assert_allclose(structural_similarity(x, y), want, rtol=1e-5)


def test_identity_is_one_and_the_negative_is_far():
    x, _ = pictures(3, 48)
    for weights in ((1.0,), scale_weights(48)):
        own = structural_similarity(x, x, weights=weights)
        # 1e-5: float32 variances are differences of means, and x's are summed in another order
        np.testing.assert_allclose(np.diagonal(own), 1.0, rtol=1e-5)
        assert own.max() <= 1.0
        assert (structural_similarity(-x, x, weights=weights).diagonal() < 0.1).all()


def test_scales_that_fit():
    np.testing.assert_allclose(scale_weights(176), WEIGHTS / WEIGHTS.sum())
    assert [len(scale_weights(side)) for side in (8, 21, 22, 32, 44, 88, 175)] == [
        1, 1, 2, 2, 3, 4, 4,
    ]  # fmt: skip
    for side in (16, 32, 64, 256):
        assert sum(scale_weights(side)) == pytest.approx(1.0)


def test_blocks_and_own_galleries_change_nothing():
    x, y = pictures(5, 24, seed=3)
    whole = structural_similarity(x, y)
    # rtol throughout: other shapes are summed in another order; some similarities are near 0
    np.testing.assert_allclose(structural_similarity(x, y, block=2), whole, rtol=1e-5, atol=1e-7)
    own = np.stack([y[[i, 0]] for i in range(5)])
    found = structural_similarity(x, own, block=4)
    np.testing.assert_allclose(found[:, 0], whole.diagonal(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[:, 1], whole[:, 0], rtol=1e-5, atol=1e-7)


def test_one_trace_while_images_change():
    x, y = pictures(4, 20, seed=4)
    structural_similarity(x, y)
    before = ssim._each_to_all._cache_size()
    structural_similarity(y, x)
    structural_similarity(x[:3], y)
    structural_similarity(x, y[:3])
    assert ssim._each_to_all._cache_size() == before


def test_too_small_for_the_scales_asked_for():
    x, y = pictures(1, 24)
    with pytest.raises(ValueError, match="24 pixels are too small for 5 scales"):
        structural_similarity(x, y, weights=tuple(WEIGHTS))
