"""Trajectory decomposition against NumPy's least squares and trajectories known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Trajectory
from memjax.detectors import DETECTORS, detect
from memjax.detectors.trajectory_decomposition import TrajectoryDecomposition, decompose
from memjax.models.empirical import EmpiricalDenoiser
from memjax.sampling import sample

SPEC = ScheduleSpec("cosine", 200)
STEPS, DIM = 5, 12


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def least_squares(x_t, x_0, x_T):
    """float64 reference, one example and step at a time; least norm where the rank is 1 or 0."""
    steps, batch = x_t.shape[:2]
    found = np.zeros((2, steps, batch))
    for s, b in np.ndindex(steps, batch):
        basis = np.stack([x_0[b].ravel(), x_T[b].ravel()], axis=1).astype(np.float64)
        found[:, s, b] = np.linalg.lstsq(basis, x_t[s, b].ravel(), rcond=1e-6)[0]
    return found


def test_weights_are_those_of_least_squares():
    x_t, x_0, x_T = draw(0, STEPS, 4, 2, 3, 2), draw(1, 4, 2, 3, 2), draw(2, 4, 2, 3, 2)
    np.testing.assert_allclose(
        jax.jit(decompose)(x_t, x_0, x_T), least_squares(x_t, x_0, x_T), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("case", ["parallel", "equal", "no image", "no noise", "nothing"])
def test_where_image_and_noise_are_parallel_the_least_weights_are_given(case):
    x_T = draw(2, 3, DIM)
    x_0 = {"parallel": -2.5 * x_T, "equal": x_T, "no noise": draw(1, 3, DIM)}.get(case, 0 * x_T)
    if case in ("no noise", "nothing"):
        x_T = 0 * x_T
    x_t = draw(0, STEPS, 3, DIM)
    np.testing.assert_allclose(
        jax.jit(decompose)(x_t, x_0, x_T), least_squares(x_t, x_0, x_T), rtol=1e-4, atol=1e-6
    )


def test_nearly_parallel_vectors_keep_their_digits():
    x_T = draw(2, 3, DIM)
    x_0 = x_T + np.float32(1e-3) * draw(1, 3, DIM)
    x_t = np.float32(0.7) * x_0 + np.float32(0.3) * x_T + draw(0, STEPS, 3, DIM)
    # A condition number of 1e3 leaves float32 about 2e-4 without fused multiply-add (3e-7 with it);
    # that of the normal equations is 1e6, and they err by 0.3.
    np.testing.assert_allclose(
        jax.jit(decompose)(x_t, x_0, x_T), least_squares(x_t, x_0, x_T), rtol=1e-3
    )


def test_a_state_that_is_not_a_number_stays_one():
    x_t, x_0, x_T = draw(0, STEPS, 2, DIM), draw(1, 2, DIM), draw(2, 2, DIM)
    x_t[3, 1, 0] = np.nan
    w_0, w_T = jax.jit(decompose)(x_t, x_0, x_T)
    expected = np.zeros((STEPS, 2), bool)
    expected[3, 1] = True
    np.testing.assert_array_equal(np.isnan(w_0), expected)
    np.testing.assert_array_equal(np.isnan(w_T), expected)


@pytest.fixture(scope="module")
def recalled():
    """The guided trajectories of one training image, with their grid."""
    image, x_T = draw(3, 1, 4, 4, 1), draw(4, 3, 4, 4, 1)
    cond, null = jnp.ones((3, 1), bool), EmpiricalDenoiser.null_cond(1)
    tap = {name: TrajectoryDecomposition(form=name) for name in ("signed", "absolute")}
    run = jax.jit(partial(sample, EmpiricalDenoiser(SPEC), num_steps=10, tap=tap))
    found = run(image, x_T, cond, null, SPEC.build())
    np.testing.assert_allclose(found.x, np.tile(image, (3, 1, 1, 1)), atol=1e-4)
    alphas_bar = np.cumprod(1 - SPEC.betas())[180::-20]
    return found.taps, np.sqrt(alphas_bar), np.sqrt(1 - alphas_bar)


def test_a_single_training_image_is_on_the_schedule_but_for_its_share_in_the_noise(recalled):
    found, signal, sigma = recalled
    # DDIM of one point y is x_t = √ᾱ_t y + σ_t ε with ε = (x_T − √ᾱ_T y)/σ_T throughout.
    expected = np.tile((-sigma * signal[0] / sigma[0])[:, None], (1, 3))
    np.testing.assert_allclose(found["signed"], expected, atol=1e-5)
    np.testing.assert_allclose(found["absolute"], -expected, atol=1e-5)


def test_at_the_first_state_the_weight_of_the_image_is_zero(recalled):
    found, signal, _ = recalled
    np.testing.assert_allclose(found["signed"][0], -np.full(3, signal[0]), atol=1e-6)


def test_an_image_that_is_there_early_scores_high():
    signal = np.linspace(0.05, 0.95, STEPS, dtype=np.float32)
    sigma = np.sqrt(1 - signal**2)
    x_0, x_T = draw(1, 2, DIM), draw(2, 2, DIM)
    early = np.stack([0.3 * (1 - signal), 0 * signal], axis=1)  # the first prompt's excess
    x_t = (signal[:, None] + early)[..., None] * x_0 + sigma[:, None, None] * x_T
    x_t[0] = x_T
    seen = Trajectory(x_t, x_0, np.arange(STEPS)[::-1], signal, sigma)
    found = jax.jit(lambda seen: TrajectoryDecomposition()(seen, None))(seen)
    np.testing.assert_allclose(found[1:], early[1:], atol=1e-5)


def test_it_refuses_a_trajectory_that_is_not_finished():
    image, x_T = draw(3, 1, 4, 4, 1), draw(4, 2, 4, 4, 1)
    cond, null = jnp.ones((1, 1), bool), EmpiricalDenoiser.null_cond(1)
    args = (EmpiricalDenoiser(SPEC), image, x_T, cond, null, SPEC.build())
    with pytest.raises(ValueError, match="early needs the finished image, and 3 of 10 steps"):
        detect(*args, num_steps=10, steps=3, detectors={"early": TrajectoryDecomposition()})


def test_its_text_names_the_form():
    assert DETECTORS.parse("trajectory_decomposition") == TrajectoryDecomposition()
    text = DETECTORS.text(TrajectoryDecomposition(form="absolute", steps="5-10"))
    assert text == "trajectory_decomposition:form=absolute:steps=5-10"
