"""One-step denoising confidence by hand, and its direction on an exact memoriser."""

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.detectors.denoising_confidence import DenoisingConfidence
from memjax.models.empirical import EmpiricalDenoiser, GaussianMixtureDenoiser
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_exact, toy_params

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
X, T, COND = noise(0, 3), np.array([5, 90, 190]), tokens(1, 3, padded=1)


def test_it_is_what_one_guided_step_takes_away():
    alpha = np.cumprod(1 - SPEC.betas())[T][:, None]
    cond, null = toy_exact(X, T, COND), toy_exact(X, T, null_tokens())
    x = np.asarray(X, np.float64).reshape(3, -1)
    for scale in (7.5, 0.0, 1.0):
        eps = null + scale * (cond - null)
        x0 = (x - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha)
        expected = ((x / np.sqrt(alpha) - x0) ** 2).mean(axis=1)
        net = Denoiser(toy_eps, toy_params(), null_tokens(), SPEC.build())
        found = DenoisingConfidence(guidance=scale)(net.at(X, jnp.asarray(T), COND), net)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    net = Denoiser(toy_eps, toy_params(), None, SPEC.build())
    found = DenoisingConfidence()(net.at(X, jnp.asarray(T), COND), net)
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # not guided


def test_a_recalled_image_takes_all_of_the_noise_away_and_a_broad_density_less():
    t, alpha = np.full(64, 120), np.cumprod(1 - SPEC.betas())[120]
    image = noise(1, 1)
    x = jax.random.normal(jax.random.key(0), (64, *image.shape[1:]))
    x = np.sqrt(alpha) * image + np.sqrt(1 - alpha) * x
    cond = jnp.ones((64, 1), bool)

    def measure(network):
        net = Denoiser(network, image, None, SPEC.build())
        return DenoisingConfidence()(net.at(x, jnp.asarray(t), cond), net)

    recalled, broad = (
        measure(net) for net in (EmpiricalDenoiser(SPEC), GaussianMixtureDenoiser(SPEC, 0.5))
    )
    exact = np.asarray(x, np.float64) / np.sqrt(alpha) - np.asarray(image, np.float64)
    np.testing.assert_allclose(recalled, (exact**2).mean(axis=(1, 2, 3)), rtol=1e-4)
    shrink = (1 - alpha) / (1 - alpha + alpha * 0.25)
    np.testing.assert_allclose(broad, recalled * shrink**2, rtol=1e-4)
    assert np.all(recalled > broad)
