"""Update norms against float64 NumPy, a trajectory in closed form and bands counted by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Trajectory
from memjax.detectors import DETECTORS
from memjax.detectors.update_norm import UpdateNorm, stability_region
from memjax.models.empirical import EmpiricalDenoiser
from memjax.sampling import sample

SPEC = ScheduleSpec("cosine", 200)
STEPS, BATCH, SHAPE = 4, 3, (2, 3, 2)
DIM = 12


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trajectory(dtype=jnp.float32):
    x = jnp.asarray(draw(0, STEPS + 1, BATCH, *SHAPE), dtype)
    return Trajectory(x[:-1], x[-1], np.arange(STEPS), np.ones(STEPS), np.ones(STEPS))


def norms(seen):
    """float64 norms of the differences of successive states."""
    x = (
        np.concatenate([seen.x_t, seen.x_end[None]])
        .astype(np.float64)
        .reshape(STEPS + 1, BATCH, -1)
    )
    return np.linalg.norm(np.diff(x, axis=0), axis=2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norms_are_those_of_successive_differences(dtype):
    seen = trajectory(dtype)
    np.testing.assert_allclose(UpdateNorm()(seen, None), norms(seen), rtol=1e-6)
    rms = UpdateNorm(rms=True)(seen, None)
    np.testing.assert_allclose(rms, norms(seen) / np.sqrt(DIM), rtol=1e-6)


def test_a_single_training_image_moves_as_the_schedule_says():
    image, x_T = draw(3, 1, 4, 4, 1), draw(4, 2, 4, 4, 1)
    cond, null = jnp.ones((2, 1), bool), EmpiricalDenoiser.null_cond(1)
    tap = {"moved": UpdateNorm()}
    run = jax.jit(partial(sample, EmpiricalDenoiser(SPEC), num_steps=10, stop_after=6, tap=tap))
    found = run(image, x_T, cond, null, SPEC.build()).taps["moved"]
    alphas_bar = np.cumprod(1 - SPEC.betas())[180::-20]
    signal, sigma = np.sqrt(alphas_bar), np.sqrt(1 - alphas_bar)
    eps = (x_T - signal[0] * image) / sigma[0]  # the same at every step
    steps = np.diff(signal)[:6, None, None, None, None] * image
    steps = steps + np.diff(sigma)[:6, None, None, None, None] * eps
    expected = np.linalg.norm(steps.reshape(6, 2, -1), axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_outside_a_region_is_positive_on_either_side():
    seen = trajectory()
    n = norms(seen)
    low, high = np.median(n, axis=1) - 0.1, np.median(n, axis=1) + 0.2
    found = UpdateNorm(low=tuple(low), high=tuple(high))(seen, None)
    expected = np.maximum(low[:, None] - n, n - high[:, None])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found > 0, (n < low[:, None]) | (n > high[:, None]))
    only_high = UpdateNorm(high=tuple(high))(seen, None)
    np.testing.assert_allclose(only_high, n - high[:, None], atol=1e-6)


def test_a_region_may_reach_beyond_the_steps_that_are_run_but_not_end_before():
    seen = trajectory()
    longer = UpdateNorm(high=(1.0,) * (STEPS + 2))(seen, None)
    np.testing.assert_allclose(longer, norms(seen) - 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="has 3 low bounds, expected one for each of the 4 steps"):
        UpdateNorm(low=(1.0,) * 3)(seen, None)


def test_a_region_holds_the_central_share_of_ordinary_prompts():
    ordinary = np.arange(101.0)[:, None] + np.array([0.0, 1000.0])  # 0 … 100 at the first step
    low, high = stability_region(ordinary, coverage=0.9)
    np.testing.assert_allclose(low, [5.0, 1005.0])
    np.testing.assert_allclose(high, [95.0, 1095.0])
    assert stability_region(ordinary.reshape(101, 1, 2), 1.0) == ((0.0, 1000.0), (100.0, 1100.0))


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array([[1.0, np.nan]])])
def test_a_region_refuses_norms_it_cannot_use(values):
    with pytest.raises(ValueError, match="expected at least one and all finite"):
        stability_region(values)


@pytest.mark.parametrize("coverage", [0.0, 1.1])
def test_a_region_refuses_impossible_shares(coverage):
    with pytest.raises(ValueError, match="expected a share in"):
        stability_region(np.ones((3, 2)), coverage)


def test_a_fitted_region_is_read_back_from_its_text():
    low, high = stability_region(draw(5, 20, STEPS) ** 2)
    region = UpdateNorm(rms=True, low=low, high=high)
    assert DETECTORS.parse(DETECTORS.text(region)) == region
    assert DETECTORS.parse("update_norm:low=1/2.5:steps=3") == UpdateNorm(low=(1.0, 2.5), steps=3)
