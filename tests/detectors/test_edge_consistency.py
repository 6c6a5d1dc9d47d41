"""Edge consistency against SciPy's Sobel filter in float64, and images whose edges are known."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from memjax.core.schedules import ScheduleSpec
from memjax.detectors import DETECTORS, detect, prepare
from memjax.detectors.edge_consistency import EdgeConsistency, edges
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_params

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()


def draw(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def reference(images, edge, agree):
    """float64: one image and one color at a time."""
    unit = 0.5 * (images.astype(np.float64) + 1)
    votes = np.zeros(images.shape[1:3])
    for image in unit:
        slopes = [
            np.hypot(ndimage.sobel(image[..., c], 0), ndimage.sobel(image[..., c], 1))
            for c in range(image.shape[-1])
        ]
        votes += sum(slopes) * (3 / len(slopes)) > edge
    return np.mean(votes / len(images) > agree)


@pytest.mark.parametrize(("channels", "edge"), [(1, 3.0), (1, 4.0), (3, 3.0)])
def test_it_is_the_share_that_scipy_finds(channels, edge):
    images = 0.6 * draw(0, 3, 4, 9, 7, channels)
    found = jax.jit(lambda x: EdgeConsistency(edge=edge, size=0)(x, None))(images)
    expected = [reference(of, edge, 0.5) for of in images]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(expected)) > 1
    np.testing.assert_allclose(EdgeConsistency(edge=edge, size=0)(images, None), found, rtol=1e-6)


def test_a_step_from_black_to_white_is_four_a_color():
    image = np.zeros((1, 6, 6, 1), np.float32)
    image[:, :, 3:] = 1.0
    expected = np.zeros((1, 6, 6), bool)
    expected[:, :, 2:4] = True
    np.testing.assert_array_equal(edges(image, 11.9), expected)
    assert not edges(image, 12.0).any()


def test_edges_that_move_with_the_noise_do_not_count():
    image = np.full((12, 12, 3), -1, np.float32)
    image[4:8, 4:8] = 1.0
    still = np.stack([image] * 4)
    moving = np.stack([np.roll(image, 3 * k, axis=0) for k in range(4)])
    flat = 0 * still
    found = EdgeConsistency(size=0)(np.stack([still, moving, flat]), None)
    np.testing.assert_allclose(found[0], reference(still, 1.5, 0.5))
    assert found[0] > 2 * found[1]
    assert found[2] == 0


def test_images_are_resized_first():
    image = np.full((1, 2, 64, 64, 1), -1, np.float32)
    image[:, :, :, 32:] = 1.0
    # Two of 64 columns are edges, and two to four of 16; enlarged, a slope is four columns wide and
    # less steep.
    assert EdgeConsistency(size=0)(image, None)[0] == 2 / 64
    assert 2 / 16 <= EdgeConsistency(size=16)(image, None)[0] <= 4 / 16
    assert 4 / 256 < EdgeConsistency()(image, None)[0] < 16 / 256
    assert EdgeConsistency(edge=11.9)(image, None)[0] == 0


ARGS = (toy_eps, toy_params(), noise(0, 2), tokens(1, 3), null_tokens(), SCHEDULE)


def test_it_is_given_the_finished_images_and_stands_at_the_last_step():
    found = detect(*ARGS, detectors={"edges": EdgeConsistency(edge=3.0, size=0)}, num_steps=4)
    values = found.statistics["edges"]
    assert values.shape == (3, 2, 4)
    assert np.isnan(values[..., :3]).all()
    expected = [reference(of.clip(-1, 1), 3.0, 0.5) for of in found.images]
    np.testing.assert_allclose(found.scores(), expected, rtol=1e-6)
    np.testing.assert_array_equal(values[:, 0, 3], values[:, 1, 3])


def test_states_are_decoded_first_and_nothing_else_changes():
    seen = []

    def decode(states):
        seen.append(states.shape)
        return np.repeat(np.repeat(np.asarray(states), 2, axis=1), 2, axis=2)

    tap = DETECTORS.parse_all(["noise_magnitude", "edge_consistency:edge=3:size=0"])
    found = detect(*ARGS, detectors=tap, num_steps=4, decode=decode)
    assert seen == [(2, 4, 4, 1)] * 3
    large = found.images.clip(-1, 1).repeat(2, axis=2).repeat(2, axis=3)
    expected = [reference(of, 3.0, 0.5) for of in large]
    np.testing.assert_allclose(
        found.scores(name="edge_consistency:edge=3:size=0"), expected, rtol=1e-6
    )
    alone = detect(*ARGS, num_steps=4)
    np.testing.assert_array_equal(found.images, alone.images)
    np.testing.assert_array_equal(found.scores(), alone.scores())
    assert found.forward_evals == alone.forward_evals


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 16)])
def test_one_image_a_prompt_or_none_is_refused(shape):
    args = (toy_eps, toy_params(), np.zeros(shape, np.float32), null_tokens(), SCHEDULE)
    with pytest.raises(ValueError, match=r"edges compares the images of a prompt.*2 generations"):
        prepare(*args, detectors={"edges": EdgeConsistency()}, num_steps=4)


def test_unfinished_images_are_refused():
    with pytest.raises(ValueError, match="edges needs the finished image, and 2 of 4 steps"):
        detect(*ARGS, detectors={"edges": EdgeConsistency()}, num_steps=4, steps=2)
