"""FLIPD on closed-form denoisers whose Jacobian, and so whose dimension, is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import DETECTORS
from memjax.detectors.flipd import Flipd
from memjax.models.empirical import EmpiricalDenoiser, GaussianMixtureDenoiser
from tests.closed_forms import noise

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
ALPHA = np.cumprod(1 - SPEC.betas())
T = np.array([40, 90, 190])
SHARE = 0.5  # of the schedule: t = 100, where several images have weight
IMAGES = 0.5 * noise(7, 5)


def measure(network, params, x, cond, **fields):
    net = Denoiser(network, params, None, SPEC.build())
    return Flipd(**fields)(net.at(jnp.asarray(x), jnp.asarray(T), cond), net)


def posterior(x, t):
    """Posterior weights, mean and covariance of the images at a noisy state, in float64."""
    y = np.asarray(IMAGES, np.float64).reshape(5, -1)
    away = x - np.sqrt(ALPHA[t]) * y
    w = np.exp(-(away**2).sum(axis=1) / (2 * (1 - ALPHA[t])))
    w /= w.sum()
    mean = w @ y
    return mean, (w[:, None] * (y - mean)).T @ (y - mean)


@pytest.fixture(scope="module")
def exact():
    """Negative dimension, ``σ ∂ε/∂x`` of each state: ``1 − ᾱ/σ² Cov``, worked out by hand."""
    values, slopes = [], []
    for x, t in zip(np.asarray(noise(0, 3), np.float64).reshape(3, -1), T, strict=True):
        at = np.sqrt(ALPHA[100]) * posterior(x, t)[0]
        mean, covariance = posterior(at, 100)
        slope = np.eye(16) - ALPHA[100] / (1 - ALPHA[100]) * covariance
        square = ((at - np.sqrt(ALPHA[100]) * mean) ** 2).sum() / (1 - ALPHA[100])
        values.append(np.trace(slope) - square - 16)
        slopes.append(slope)
    return np.array(values), np.array(slopes)


def test_the_exact_trace_is_met_within_the_variance_of_the_probes(exact):
    values, slopes = exact
    probes = 400
    found = measure(
        EmpiricalDenoiser(SPEC),
        IMAGES,
        noise(0, 3),
        np.ones((3, 5), bool),
        noise=SHARE,
        probes=probes,
    )
    off = slopes - np.stack([np.diag(np.diag(s)) for s in slopes])
    deviation = np.sqrt(2 * (off**2).sum(axis=(1, 2)) / probes)
    assert np.all(np.abs(found - values) < 4 * deviation + 1e-4)
    assert np.all(values < -0.1)


def test_with_few_probes_it_is_the_quadratic_form_of_these_probes(exact):
    values, slopes = exact
    shape = (2, 4, 4, 1)
    signs = np.asarray(jax.random.rademacher(jax.random.key(5), shape, jnp.float32)).reshape(2, 16)
    traces = np.einsum("pi,bij,pj->bp", signs, slopes, signs).mean(axis=1)
    expected = values + traces - np.trace(slopes, axis1=1, axis2=2)
    fields = {"noise": SHARE, "probes": 2, "seed": 5}
    found = measure(EmpiricalDenoiser(SPEC), IMAGES, noise(0, 3), np.ones((3, 5), bool), **fields)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_of_a_memorized_image_the_dimension_is_zero_and_of_a_broad_density_it_is_not():
    one = np.ones((3, 1), bool)
    # x̂0 is the image itself; ε is rounding divided by a small σ.
    memorized = measure(EmpiricalDenoiser(SPEC), IMAGES[:1], noise(0, 3), one)
    np.testing.assert_allclose(memorized, 0.0, atol=1e-4)
    broad = measure(GaussianMixtureDenoiser(SPEC, 1.0), IMAGES[:1], noise(0, 3), one)
    assert np.all(broad < -10)


@pytest.mark.parametrize("rank", [0, 3, 16])
def test_of_data_in_a_subspace_it_is_the_subspaces_dimension(rank):
    def subspace(params, x, t, cond):
        sigma = jnp.asarray(SPEC.build().sigmas)[t][:, None]
        variance = jnp.where(jnp.arange(16)[None] < rank, 1.0, sigma**2)
        return (sigma * x.reshape(-1, 16) / variance).reshape(x.shape)

    # At t = 0 of this schedule σ² = 1e-4.
    found = measure(subspace, (), noise(0, 3), jnp.ones(3), noise=0.0, probes=1)
    np.testing.assert_allclose(found, -rank, atol=0.01)


def test_probes_and_noise_out_of_range_are_refused():
    for field, value in (("probes", 0), ("noise", 1.5)):
        with pytest.raises(ValueError, match=f"Flipd: {field} is {value}, expected"):
            DETECTORS.parse(f"flipd:{field}={value}")


def test_its_evaluations_are_counted_by_its_probes():
    assert DETECTORS.parse("flipd:probes=3").evals == 6
