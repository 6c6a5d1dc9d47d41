"""Augmentation: against float64 formulas, exact cases, and what the order of rows decides."""

import numpy as np
import pytest

from memjax.data.augmentation import Augmentation, sampled
from memjax.data.pipeline import make_batches

SIZE = 16
GRID = np.linspace(-1.0, 1.0, SIZE)


def drawn(count, **amounts):
    moved = Augmentation(**amounts)
    image = np.random.default_rng(1).uniform(-1, 1, (SIZE, SIZE, 1)).astype(np.float32)
    return image, [moved(image, np.random.default_rng(i)) for i in range(count)]


def wave(y, x):
    return np.sin(1.1 * y) * np.cos(0.9 * x)


def test_smooth_images_are_sampled_between_their_pixels():
    """Keys 1981: third order, so halving the grid's step divides the error by about eight."""

    def error(size):
        grid = np.linspace(-2, 2, size)
        image = wave(grid[:, None], grid[None, :])[..., None].astype(np.float32)
        rows, columns = np.random.default_rng(0).uniform(0.25, 0.75, (2, 30, 30)) * (size - 1)
        step = 4 / (size - 1)
        exact = wave(rows * step - 2, columns * step - 2)
        return np.abs(sampled(image, rows, columns)[..., 0] - exact).max()

    assert error(25) < 2e-3
    assert error(49) < error(25) / 6


def test_at_whole_positions_a_pixel_is_itself_and_outside_the_edge():
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    rows, columns = np.meshgrid([0.0, 2.0, 9.0], [-5.0, 1.0, 3.0], indexing="ij")
    expected = image[[0, 2, 2]][:, [0, 1, 3]]
    np.testing.assert_array_equal(sampled(image, rows, columns), expected)


def test_a_positive_angle_turns_clockwise():
    image, _ = drawn(0)

    class Certain:
        @staticmethod
        def random(_):
            return np.array([1.0, 0.5, 0.5, 0.5, 1.0])  # the largest angle, and nothing else

    turned = Augmentation(rotate=90.0)(image, Certain())
    np.testing.assert_allclose(turned, np.rot90(image, -1), atol=1e-5)


def test_shifts_stay_within_their_share_and_reach_for_it():
    ramp = np.broadcast_to(0.5 * GRID[None, :, None], (SIZE, SIZE, 1)).astype(np.float32)
    moved = Augmentation(shift=0.1)
    middle = SIZE // 2
    step = 0.5 * (GRID[1] - GRID[0])
    found = [
        (ramp - moved(ramp, np.random.default_rng(i)))[middle, middle, 0] / step for i in range(300)
    ]
    assert np.abs(found).max() <= 0.1 * SIZE + 1e-4
    assert max(found) > 0.09 * SIZE
    assert min(found) < -0.09 * SIZE


def test_zooms_keep_the_center_and_spread_what_lies_around_it():
    bowl = (0.4 * (GRID[:, None] ** 2 + GRID[None, :] ** 2))[..., None].astype(np.float32)
    inner = slice(5, 11)  # pixels that no draw takes from outside
    moved = [Augmentation(zoom=0.2)(bowl, np.random.default_rng(i)) for i in range(200)]
    factors = [(bowl[inner, inner] / image[inner, inner]) ** 0.5 for image in moved]
    for factor in factors:
        np.testing.assert_allclose(factor, factor.mean(), rtol=2e-3)  # the bowl is a parabola
    assert 0.8 - 1e-3 <= np.min(factors) < 0.82
    assert 1.18 < np.max(factors) <= 1.2 + 1e-3


def test_half_of_the_draws_are_mirror_images():
    image, moved = drawn(200, flip=True)
    flipped = [np.array_equal(one, image[:, ::-1]) for one in moved]
    assert all(np.array_equal(one, image) for one, f in zip(moved, flipped, strict=True) if not f)
    assert 70 < sum(flipped) < 130  # 200 tosses: four standard deviations


def test_values_stay_in_range_and_images_differ():
    image, moved = drawn(20, rotate=8.0, shift=0.1, zoom=0.1)
    for one in moved:
        assert one.dtype == np.float32
        assert one.shape == image.shape
        assert np.abs(one).max() <= 1.0
    assert len({one.tobytes() for one in moved}) == 20


def test_nothing_is_switched_on_by_default():
    image, moved = drawn(3)
    assert not Augmentation()
    assert Augmentation(flip=True)
    for one in moved:
        np.testing.assert_array_equal(one, image)


@pytest.mark.parametrize(("name", "value"), [("rotate", -1.0), ("shift", 0.6), ("zoom", 5.0)])
def test_impossible_amounts_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"augment.{name} is {value}; expected 0 \(off\) to"):
        Augmentation(**{name: value})


@pytest.mark.parametrize("start", [0, 5])
def test_a_place_in_the_order_decides_how_its_image_is_moved(start):
    """Not the number of processes, nor restarts; the rows are those of a run without."""
    images = np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE, 1), np.uint8)
    labels = np.arange(10, dtype=np.int32)[:, None]
    moved = Augmentation(rotate=5.0, shift=0.05, zoom=0.05, flip=True)

    def take(count, **options):
        stream = make_batches(images, labels, batch_size=4, seed=2, **options)
        return [next(stream) for _ in range(count)]

    whole, plain = take(8, augment=moved), take(8)
    halves = [take(3, augment=moved, start_step=start, positions=p) for p in ([0, 1], [2, 3])]
    for step in range(3):
        parts = [half[step] for half in halves]
        joined = np.concatenate([part.image for part in parts])
        np.testing.assert_array_equal(joined, whole[start + step].image)
        np.testing.assert_array_equal(plain[start + step].row, whole[start + step].row)
        assert (joined != plain[start + step].image).any()
