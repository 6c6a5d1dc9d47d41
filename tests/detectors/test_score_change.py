"""The change of the score over one step, by hand in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.detectors.score_change import ScoreChange
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_exact, toy_params

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
X, T, COND = noise(0, 3), np.array([2, 90, 190]), tokens(1, 3, padded=1)


def measure(detector, null=True, t=T):
    null = null_tokens() if null else None
    net = Denoiser(toy_eps, toy_params(), null, SPEC.build())
    return detector(net.at(X, jnp.asarray(t), COND), net)


def by_hand(scale, stride):
    alpha = np.cumprod(1 - SPEC.betas())
    after = np.maximum(T - stride, 0)
    x, cond = np.asarray(X, np.float64).reshape(3, -1), toy_exact(X, T, COND)
    eps = cond
    if scale is not None:
        null = toy_exact(X, T, null_tokens())
        eps = null + scale * (cond - null)
    now, then = alpha[T][:, None], alpha[after][:, None]
    x0 = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
    moved = np.sqrt(then) * x0 + np.sqrt(1 - then) * eps
    return np.linalg.norm(toy_exact(moved, after, COND) - cond, axis=1)


def test_it_is_the_change_over_one_guided_step():
    np.testing.assert_allclose(measure(ScoreChange()), by_hand(7.5, 4), rtol=1e-4)
    other = ScoreChange(guidance=2.0, num_steps=10, rms=True)
    np.testing.assert_allclose(measure(other), by_hand(2.0, 20) / 4, rtol=1e-4)


def test_without_a_null_condition_the_step_is_not_guided():
    np.testing.assert_allclose(measure(ScoreChange(), null=False), by_hand(None, 4), rtol=1e-4)
    np.testing.assert_allclose(measure(ScoreChange(guidance=1.0)), by_hand(None, 4), rtol=1e-4)


def test_at_the_clean_end_no_step_is_left():
    np.testing.assert_array_equal(measure(ScoreChange(), t=[0, 0, 0]), 0.0)


def test_a_step_that_the_schedule_cannot_take_is_refused():
    with pytest.raises(ValueError, match="num_steps is 0, expected at least 1"):
        ScoreChange(num_steps=0)
    with pytest.raises(ValueError, match="num_steps is 201, expected 1 to the schedule's 200"):
        measure(ScoreChange(num_steps=201))
