"""Spectra against waves of one frequency, white noise, and grids put into smooth images."""

import numpy as np
import pytest

from memjax.evaluate.distribution.spectrum import patch_power, power_spectrum, radial_power

SIZE = 32


def wave(down, right, count=1):
    y, x = np.arange(SIZE)[:, None], np.arange(SIZE)[None, :]
    image = np.cos(2 * np.pi * (down * y + right * x) / SIZE)
    return np.repeat(image[None, :, :, None], count, axis=0)


@pytest.mark.parametrize(("down", "right", "ring"), [(5, 0, 5), (0, 9, 9), (3, 4, 5)])
def test_a_wave_lies_on_its_ring(down, right, ring):
    rings = radial_power(power_spectrum(wave(down, right)))
    assert len(rings) == SIZE // 2
    assert np.argmax(rings) == ring - 1
    # A Hann window spreads a wave over its neighbors and no further.
    assert rings[[k for k in range(SIZE // 2) if abs(k + 1 - ring) > 2]].max() < 1e-9 * rings.max()


def test_white_noise_is_flat_and_adds_up_to_its_variance():
    noise = np.random.default_rng(0).normal(scale=0.5, size=(400, SIZE, SIZE, 1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)
    expected = 0.25 * np.sum(np.outer(window, window) ** 2)
    rings = radial_power(power_spectrum(noise))[2:]  # the mean took from the lowest
    np.testing.assert_allclose(rings, expected, rtol=0.1)  # of 400 images, at least 16 a ring


def test_brightness_is_no_power():
    images = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1))
    np.testing.assert_allclose(power_spectrum(images + 7.0), power_spectrum(images), atol=1e-8)


@pytest.mark.parametrize("patch", [2, 4])
def test_a_grid_of_patches_is_seen_at_its_own_frequencies(patch):
    rng = np.random.default_rng(1)
    smooth = wave(1, 0, 6) + wave(1, 1, 6)
    tile = np.tile(rng.normal(size=(patch, patch)), (SIZE // patch, SIZE // patch))
    gridded = smooth + 0.1 * (tile - tile.mean())[None, :, :, None]
    before, after = (patch_power(power_spectrum(x), patch) for x in (smooth, gridded))
    assert after > 1e3 * before
    everywhere = power_spectrum(gridded) - power_spectrum(smooth)
    np.testing.assert_allclose(after - before, everywhere.sum(), rtol=1e-2)


def test_a_wave_that_is_no_multiple_is_left_out():
    other, own = (power_spectrum(wave(cycles, 0)) for cycles in (3, 8))
    assert patch_power(other, 4) < 1e-9 * other.sum()
    assert patch_power(own, 4) > (1 - 1e-9) * own.sum()


def test_what_has_no_such_frequencies_is_refused():
    with pytest.raises(ValueError, match=r"patch is 3; expected a divisor of 32 from 2 to 8"):
        patch_power(np.ones((SIZE, SIZE)), 3)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 8, 1\); expected square"):
        power_spectrum(np.ones((1, 4, 8, 1)))
