"""Changes that keep an image a copy: closed forms of each."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from memjax.evaluate.similarity.planted import Augmentation, augment, blurred, resample

NOTHING = Augmentation(0, 0, 0, 0, 0, 0, 0)


def pictures(n=3, side=17, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, 0.9, (n, side, side, channels)).astype(np.float32)


def moved(images, angle=0.0, zoom=1.0, shift=(0.0, 0.0)):
    n = len(images)
    shifts = np.tile(np.asarray(shift, np.float32), (n, 1))
    return np.asarray(resample(images, np.full(n, angle), np.full(n, zoom), shifts))


def test_no_change_is_the_identity():
    x = pictures()
    np.testing.assert_allclose(augment(jax.random.key(0), x, NOTHING), x, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(turns):
    x = pictures()
    # atol: cos(π/2) is 4e-8 in float32 and is multiplied by a pixel's distance from the center
    want = np.rot90(x, turns, axes=(1, 2))
    np.testing.assert_allclose(moved(x, np.float32(-turns * np.pi / 2)), want, atol=1e-5)


def test_whole_shifts_repeat_the_edge():
    x = pictures()
    rows, columns = np.clip(np.arange(17) - 2, 0, 16), np.clip(np.arange(17) + 3, 0, 16)
    want = x[:, rows][:, :, columns]
    np.testing.assert_allclose(moved(x, shift=(2, -3)), want, atol=1e-6)


def test_a_zoom_of_two_keeps_the_centre_and_halves_the_view():
    x = pictures(side=9)
    np.testing.assert_allclose(moved(x, zoom=2.0)[:, ::2, ::2], x[:, 2:7, 2:7], atol=1e-6)


def test_blur_equals_scipy_inside():
    x = pictures(side=41)
    want = ndimage.gaussian_filter(x.astype(np.float64), (0, 1.3, 1.3, 0), truncate=12)
    found = np.asarray(blurred(x, np.full(3, 1.3)))
    # far from the edge, where the two treat the outside differently
    np.testing.assert_allclose(found[:, 12:-12, 12:-12], want[:, 12:-12, 12:-12], atol=2e-6)
    flat = np.full((1, 20, 20, 1), 0.4, np.float32)
    np.testing.assert_allclose(blurred(flat, np.array([2.0])), flat, rtol=1e-5)


def test_flip_happens_only_when_asked_for():
    x = pictures(n=40)
    kept = augment(jax.random.key(1), x, NOTHING)
    flipped = np.asarray(augment(jax.random.key(1), x, Augmentation(0, 0, 0, 0, 0, 0, 0, True)))
    np.testing.assert_allclose(kept, x, atol=1e-6)
    swapped = np.isclose(flipped, x[:, :, ::-1], atol=1e-6).all(axis=(1, 2, 3))
    assert 8 < swapped.sum() < 32
    np.testing.assert_allclose(flipped[~swapped], x[~swapped], atol=1e-6)


def test_images_stay_in_range_and_are_drawn_anew():
    x = pictures(n=4, channels=3)
    one = np.asarray(augment(jax.random.key(2), x, Augmentation()))
    two = np.asarray(augment(jax.random.key(3), x, Augmentation()))
    assert one.shape == x.shape
    assert np.abs(one).max() <= 1.0
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, augment(jax.random.key(2), x, Augmentation()))
