"""Loss at fixed noise against a closed form, and where two losses part."""

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Bundle
from memjax.evaluate.denoising_loss import denoising_losses, loss_gap, mean_loss, stopping_point
from memjax.evaluate.statistics.bootstrap import Interval


def bundle(eps_fn):
    schedule = ScheduleSpec("cosine").build()
    return Bundle(eps_fn, jnp.zeros(()), schedule, (4, 4, 1), None, None, None, None, {})


def pictures(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4, 4, 1)).astype(np.float32)


def conditions(values):
    return lambda rows: jnp.asarray(values)[rows]


def test_a_model_that_knows_the_noise_has_no_loss_and_one_that_says_nothing_has_one():
    images = pictures(40)
    schedule = ScheduleSpec("cosine").build()

    def knows(params, x_t, t, x0):  # the condition is the clean image
        a = jnp.asarray(schedule.alphas_bar)[t][:, None, None, None]
        return (x_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)

    exact = denoising_losses(bundle(knows), images, conditions(images), timesteps=5)
    assert exact.shape == (40, 5)
    assert exact.max() < 1e-6
    silent = denoising_losses(
        bundle(lambda p, x, t, c: jnp.zeros_like(x)), images, conditions(images), timesteps=5
    )
    # The mean square of 16 normal numbers: one on average, standard deviation sqrt(2 / 16).
    assert abs(silent.mean() - 1) < 5 * np.sqrt(2 / 16 / silent.size)


def test_the_noise_depends_on_the_position_alone():
    def first(params, x_t, t, c):
        return jnp.zeros_like(x_t)

    a = denoising_losses(bundle(first), pictures(35, 1), conditions(np.zeros(35)), timesteps=3)
    b = denoising_losses(bundle(first), pictures(50, 2), conditions(np.zeros(50)), timesteps=3)
    np.testing.assert_array_equal(a, b[:35])
    other = denoising_losses(
        bundle(first), pictures(35), conditions(np.zeros(35)), timesteps=3, seed=1
    )
    assert (other != a).any()


def test_gap_and_mean_are_over_images():
    train, held = np.full((6, 2), 0.25, np.float32), np.full((4, 2), 0.75, np.float32)
    assert mean_loss(train).value == pytest.approx(0.25)
    assert loss_gap(train, held).value == pytest.approx(0.5)


def gaps(*lows):
    return [Interval(low + 0.1, low, low + 0.2) for low in lows]


@pytest.mark.parametrize(
    ("lows", "step"),
    [
        ((-0.1, 0.0, 0.2, 0.3), 20),  # parted at 30: the last step before is 20
        ((0.2, 0.2, 0.2, 0.2), 10),  # parted from the start
        ((-0.1, 0.2, 0.0, 0.3), 30),  # closed again at 30
        ((0.0, 0.0, 0.0, 0.0), None),
        ((0.0, 0.04, 0.04, 0.04), None),  # below a twentieth of the loss
    ],
)
def test_the_stopping_point_is_the_last_step_before_the_losses_part(lows, step):
    assert stopping_point([10, 20, 30, 40], gaps(*lows), losses=[1.0] * 4) == step
