"""The condition Jacobian by float64 differences, and exactly on a memoriser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CompanionNull, RandomNull, cache_null
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors.condition_jacobian import ConditionJacobian
from memjax.models.empirical import SoftCondDenoiser, SoftData
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_exact, toy_params

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
X, T, COND = noise(0, 3), jnp.array([5, 90, 190]), tokens(1, 3, padded=1)


def measure(null, **fields):
    net = Denoiser(toy_eps, toy_params(), null)
    return ConditionJacobian(**fields)(net.at(X, T, COND), net)


def by_differences(start):
    """``‖∂ε/∂e (e_p − start)‖`` by central differences in float64."""
    e, step = np.asarray(COND.embeddings, np.float64), 1e-4
    ends = [
        toy_exact(X, T, TokenCond(e + sign * step * (e - start), COND.mask)) for sign in (1, -1)
    ]
    return np.linalg.norm((ends[0] - ends[1]) / (2 * step), axis=1)


def test_it_is_the_derivative_by_differences():
    expected = by_differences(np.zeros((1, 4, 3)))
    np.testing.assert_allclose(measure(null_tokens()), expected, rtol=1e-5)
    np.testing.assert_allclose(measure(null_tokens(), rms=True), expected / 4, rtol=1e-5)


def test_random_conditions_stand_for_the_null_by_their_mean():
    conds = tokens(9, 3)
    start = np.asarray(conds.embeddings, np.float64).mean(axis=0)
    np.testing.assert_allclose(measure(RandomNull(conds)), by_differences(start), rtol=1e-5)


def test_of_an_exact_memoriser_it_is_the_covariance_of_images_and_keys():
    rng = np.random.default_rng(0)
    images, keys = rng.normal(size=(6, 2, 2, 1)), 0.3 * rng.normal(size=(6, 4))
    data = SoftData(jnp.asarray(images, jnp.float32), jnp.asarray(keys, jnp.float32))
    e = 0.5 * rng.normal(size=(3, 1, 4))
    network = SoftCondDenoiser(SPEC, beta=2.0)
    net = Denoiser(network, data, network.null_cond(4), SPEC.build())
    x = 0.7 * rng.normal(size=(3, 2, 2, 1))
    cond = TokenCond(jnp.asarray(e, jnp.float32), jnp.ones((3, 1), bool))
    found = ConditionJacobian()(net.at(jnp.asarray(x, jnp.float32), T, cond), net)
    alpha = np.cumprod(1 - SPEC.betas())[np.asarray(T)]
    for b in range(3):
        away = x[b].reshape(-1) - np.sqrt(alpha[b]) * images.reshape(6, -1)
        logits = 2.0 * keys @ e[b, 0] - (away**2).sum(axis=1) / (2 * (1 - alpha[b]))
        w = np.exp(logits - logits.max())
        w /= w.sum()
        centered = images.reshape(6, -1) - w @ images.reshape(6, -1)
        moved = 2.0 * (w[:, None] * centered).T @ (keys - w @ keys) @ e[b, 0]
        expected = np.sqrt(alpha[b] / (1 - alpha[b])) * np.linalg.norm(moved)
        # A posterior that float32 knows to 1e-6 of its logits, and weights that nearly vanish.
        np.testing.assert_allclose(found[b], expected, rtol=1e-3, atol=1e-5)


def test_a_null_condition_that_is_not_the_networks_own_is_refused():
    cached = cache_null(toy_eps, toy_params(), X, T, null_tokens())
    with pytest.raises(ValueError, match="ConditionJacobian evaluates the unconditional half"):
        measure(cached)
    predict = jax.tree_util.Partial(toy_eps, toy_params(1))
    with pytest.raises(ValueError, match="a companion's belongs to another network"):
        measure(CompanionNull(predict, null_tokens()))


def test_a_condition_without_embeddings_is_refused():
    net = Denoiser(lambda p, x, t, c: x * c, (), jnp.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"without \[batch, tokens, features\]"):
        ConditionJacobian()(net.at(X, T, jnp.ones((3, 1, 1, 1))), net)
