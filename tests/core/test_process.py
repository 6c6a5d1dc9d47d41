import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core import process
from memjax.core.schedules import NoiseSchedule, ScheduleSpec

SCHEDULE = ScheduleSpec("linear", 100, 1e-3, 0.05).build()
T = jnp.array([0, 13, 60, 99])


def _reference():
    """float64 ``√ᾱ`` and ``√(1−ᾱ)`` at T, shaped to broadcast."""
    alphas_bar = np.cumprod(1 - np.linspace(1e-3, 0.05, 100))[np.asarray(T)][:, None, None, None]
    return np.sqrt(alphas_bar), np.sqrt(1 - alphas_bar)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)


def test_q_sample_by_hand():
    # 3-4-5: alphas_bar = .64, so x_t = .8 * 10 + .6 * 5 = 11.
    one = np.array([0.64], np.float32)
    schedule = NoiseSchedule(one, np.sqrt(one), np.sqrt(1 - one))
    args = (schedule, jnp.full((1, 2), 10.0), jnp.array([0]), jnp.full((1, 2), 5.0))
    np.testing.assert_allclose(process.q_sample(*args), [[11.0, 11.0]], rtol=1e-6)
    np.testing.assert_allclose(process.v_from_eps(*args), [[-2.0, -2.0]], rtol=1e-5)


def test_conversions_match_float64(pair):
    x0, eps = pair
    a, s = _reference()
    x_t, v = a * x0 + s * eps, a * eps - s * x0
    np.testing.assert_allclose(process.q_sample(SCHEDULE, x0, T, eps), x_t, atol=1e-6)
    np.testing.assert_allclose(process.v_from_eps(SCHEDULE, x0, T, eps), v, atol=1e-6)
    x_t, v = x_t.astype(np.float32), v.astype(np.float32)
    np.testing.assert_allclose(process.eps_from_v(SCHEDULE, x_t, T, v), eps, atol=1e-6)
    np.testing.assert_allclose(process.x0_from_v(SCHEDULE, x_t, T, v), x0, atol=1e-6)
    # Dividing by √ᾱ ≥ .28 and √(1−ᾱ) ≥ .03 amplifies float32 rounding by at most 1/.03.
    np.testing.assert_allclose(process.x0_from_eps(SCHEDULE, x_t, T, eps), x0, atol=2e-6)
    np.testing.assert_allclose(process.eps_from_x0(SCHEDULE, x_t, T, x0), eps, atol=2e-5)
    np.testing.assert_allclose(
        process.score_from_eps(SCHEDULE, T, eps), -eps / s, rtol=1e-6, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(t=st.integers(0, 99), seed=st.integers(0, 2**16), scale=st.floats(0.1, 3.0))
def test_eps_to_x0_to_eps(t, seed, scale):
    rng = np.random.default_rng(seed)
    x_t, eps = (scale * rng.normal(size=(2, 1, 8))).astype(np.float32)
    step = np.array([t])
    x0 = process.x0_from_eps(SCHEDULE, x_t, step, eps)
    back = process.eps_from_x0(SCHEDULE, x_t, step, x0)
    np.testing.assert_allclose(back, eps, atol=1e-4 * scale)
    v = process.v_from_eps(SCHEDULE, x0, step, eps)
    np.testing.assert_allclose(process.x0_from_v(SCHEDULE, x_t, step, v), x0, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4, 1), (2, 2, 3, 4, 1)])
def test_any_number_of_axes(shape):
    signal, noise = process.coefficients(SCHEDULE, jnp.array([5, 7]), len(shape))
    assert signal.shape == noise.shape == (2,) + (1,) * (len(shape) - 1)


def test_the_score_is_the_gradient_of_the_log_density():
    # Standard normal data stays standard normal: score(x) = -x means eps = sigma * x.
    x = jnp.linspace(-2, 2, 8).reshape(4, 2)
    noise = jnp.asarray(SCHEDULE.sigmas)[T][:, None]
    np.testing.assert_allclose(process.score_from_eps(SCHEDULE, T, noise * x), -x, rtol=1e-6)
