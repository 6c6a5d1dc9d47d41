"""The oracles against float64 NumPy, written from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.process import x0_from_eps
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.models.empirical import (
    EmpiricalDenoiser,
    GaussianMixtureDenoiser,
    PlantedCond,
    PlantedData,
    PlantedOracle,
    SoftCondDenoiser,
    SoftData,
)

SPEC = ScheduleSpec("scaled_linear", beta_start=0.00085, beta_end=0.012)
SHAPE = (4, 4, 1)


def reference(means, bandwidths, prior, x, t):
    """The mixture's ε as −√(1−ᾱ) times its score, one example and one component at a time."""
    alpha = np.cumprod(1 - SPEC.betas())[t]
    d = x.size
    log_w, scores = [], []
    for mean, h, p in zip(means.astype(np.float64), bandwidths, prior, strict=True):
        if p == 0:
            continue
        variance = alpha * h**2 + 1 - alpha
        offset = x.astype(np.float64) - np.sqrt(alpha) * mean
        log_w.append(np.log(p) - np.sum(offset**2) / (2 * variance) - d / 2 * np.log(variance))
        scores.append(-offset / variance)
    w = np.exp(np.array(log_w) - np.max(log_w))
    w /= w.sum()
    return -np.sqrt(1 - alpha) * sum(wi * s for wi, s in zip(w, scores, strict=True))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (6, *SHAPE)).astype(np.float32)
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    return images, x, np.array([150, 500, 999], np.int32)


def test_empirical_equals_reference(data):
    images, x, t = data
    mask = np.array([[1] * 6, [1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], bool)
    eps = EmpiricalDenoiser(SPEC)(images, x, t, mask)
    for i in range(3):
        expected = reference(images, np.zeros(6), mask[i], x[i], t[i])
        np.testing.assert_allclose(eps[i], expected, rtol=2e-5, atol=2e-5)


def test_one_image_is_returned_exactly(data):
    """With a single allowed image, x̂0 is that image at every timestep."""
    images, x, t = data
    schedule = SPEC.build()
    eps = EmpiricalDenoiser(SPEC)(images, x, t, np.eye(6, dtype=bool)[[2, 2, 2]])
    x0 = x0_from_eps(schedule, x, t, eps)
    np.testing.assert_allclose(x0, np.broadcast_to(images[2], x.shape), atol=3e-5)


def test_null_mask_broadcasts_to_every_image():
    assert EmpiricalDenoiser.null_cond(5).shape == (1, 5)
    assert EmpiricalDenoiser.null_cond(5).all()


def test_gaussian_mixture_equals_reference(data):
    images, x, t = data
    eps = GaussianMixtureDenoiser(SPEC, 0.4)(images, x, t, np.ones((3, 6), bool))
    for i in range(3):
        expected = reference(images, np.full(6, 0.4), np.ones(6), x[i], t[i])
        np.testing.assert_allclose(eps[i], expected, rtol=2e-5, atol=2e-5)


def test_bandwidth_zero_is_the_empirical_denoiser(data):
    images, x, t = data
    mask = np.ones((3, 6), bool)
    a = GaussianMixtureDenoiser(SPEC, 0.0)(images, x, t, mask)
    np.testing.assert_array_equal(a, EmpiricalDenoiser(SPEC)(images, x, t, mask))


def soft(data, dim=5):
    images, x, t = data
    keys = np.random.default_rng(1).standard_normal((6, dim)).astype(np.float32)
    return SoftCondDenoiser(SPEC, beta=2.0), SoftData(images, keys), x, t


def test_soft_condition_equals_reference(data):
    oracle, params, x, t = soft(data)
    rng = np.random.default_rng(2)
    tokens = rng.standard_normal((3, 2, 5)).astype(np.float32) * 0.3
    mask = np.array([[1, 1], [1, 0], [0, 1]], bool)
    eps = oracle(params, x, t, TokenCond(tokens, mask))
    for i in range(3):
        e = (tokens[i] * mask[i][:, None]).sum(0).astype(np.float64)
        prior = np.exp(2.0 * params.keys.astype(np.float64) @ e)
        expected = reference(params.images, np.zeros(6), prior, x[i], t[i])
        np.testing.assert_allclose(eps[i], expected, rtol=5e-5, atol=5e-5)


def test_soft_condition_zero_is_unconditional(data):
    oracle, params, x, t = soft(data)
    zero = SoftCondDenoiser.null_cond(5)
    cond = jax.tree.map(lambda a: np.repeat(a, 3, axis=0), zero)
    expected = EmpiricalDenoiser(SPEC)(params.images, x, t, np.ones((3, 6), bool))
    np.testing.assert_allclose(oracle(params, x, t, cond), expected, atol=1e-6)


def test_gradient_in_the_condition_is_the_covariance(data):
    """∂x̂0/∂e = β Cov_w(y, k), evaluated in float64 NumPy."""
    oracle, params, x, _ = soft(data)
    e = np.full((1, 5), 0.1, np.float32)
    step = 900
    alpha = np.cumprod(1 - SPEC.betas())[step]

    def x0(e):
        cond = TokenCond(e[:, None], jnp.ones((1, 1), bool))
        eps = oracle(params, x[:1], jnp.array([step]), cond)
        return ((x[:1] - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha))[0].ravel()

    jacobian = np.asarray(jax.jacrev(x0)(jnp.asarray(e)))[:, 0]
    y = params.images.reshape(6, -1).astype(np.float64)
    k = params.keys.astype(np.float64)
    squares = np.sum((x[0].ravel() - np.sqrt(alpha) * y) ** 2, axis=1)
    w = np.exp(-squares / (2 * (1 - alpha)) + 2.0 * k @ e[0])
    w /= w.sum()
    covariance = (w[:, None] * (y - w @ y)).T @ (k - w @ k)
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(jacobian, 2.0 * covariance, atol=2e-3 * scale)  # /√ᾱ of float32 ε
    forward = np.asarray(jax.jacfwd(x0)(jnp.asarray(e)))[:, 0]
    np.testing.assert_allclose(forward, 2.0 * covariance, atol=2e-3 * scale)


def planted(data):
    images, x, t = data
    centers = np.random.default_rng(3).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    component = np.array([0, 0, 1, 2, 3, 3], np.int32)
    return PlantedOracle(SPEC, 0.3, 0.01), PlantedData(images, component, centers), x, t


def test_planted_oracle_equals_reference(data):
    oracle, params, x, t = planted(data)
    cond = PlantedCond(np.array([2, -1, 5]), np.array([0.9, 0.5, 0.1], np.float32))
    eps = oracle(params, x, t, cond)
    means = np.concatenate([params.images, params.centers])
    bandwidths = np.repeat([0.01, 0.3], [6, 4])
    for i in range(3):
        prior = np.zeros(10)
        if cond.row[i] < 0:
            prior[6:] = 0.25
        else:
            prior[cond.row[i]] = cond.strength[i]
            prior[6 + params.component[cond.row[i]]] = 1 - cond.strength[i]
        expected = reference(means, bandwidths, prior, x[i], t[i])
        np.testing.assert_allclose(eps[i], expected, rtol=5e-5, atol=5e-5)


def test_planted_null_ignores_strength(data):
    oracle, params, x, t = planted(data)
    row = np.full(3, -1)
    a = oracle(params, x, t, PlantedCond(row, np.full(3, 0.1, np.float32)))
    b = oracle(params, x, t, PlantedCond(row, np.full(3, 0.9, np.float32)))
    np.testing.assert_array_equal(a, b)
    assert PlantedOracle.null_cond().row[0] == -1


def test_planted_strength_has_a_finite_gradient(data):
    oracle, params, x, t = planted(data)

    def total(strength):
        return jnp.sum(oracle(params, x, t, PlantedCond(np.array([0, -1, 3]), strength)) ** 2)

    gradient = jax.grad(total)(jnp.array([0.5, 0.5, 0.5]))
    assert np.isfinite(gradient).all()
    assert gradient[1] == 0


def test_oracles_are_hashable_by_value():
    assert hash(EmpiricalDenoiser(SPEC)) == hash(EmpiricalDenoiser(ScheduleSpec(**vars(SPEC))))
    assert PlantedOracle(SPEC, 0.3) != PlantedOracle(SPEC, 0.4)
