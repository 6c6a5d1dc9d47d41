"""The p-Laplacian on densities where it is known, and by differences in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.detectors.p_laplacian import PLaplacian
from memjax.models.empirical import EmpiricalDenoiser, GaussianMixtureDenoiser
from tests.closed_forms import noise

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
ALPHA = np.cumprod(1 - SPEC.betas())
T = np.array([20, 50, 80])  # the estimates of a broad density are still away from its mean
IMAGES = noise(7, 2)
X = noise(0, 3)
A, S = ALPHA[100], np.sqrt(1 - ALPHA[100])  # noise = 0.5


def measure(network, params, t=T, **fields):
    net = Denoiser(network, params, None, SPEC.build())
    cond = np.ones((3, len(params)), bool)
    return PLaplacian(noise=0.5, **fields)(net.at(X, jnp.asarray(t), cond), net)


def gaussian_center(bandwidth):
    """The state's estimate at τ less its mean, of a Gaussian about the first image."""
    x, y = (np.asarray(a, np.float64).reshape(-1, 16) for a in (X, IMAGES[:1]))
    signal = np.sqrt(ALPHA[T])[:, None]
    variance = signal**2 * bandwidth**2 + 1 - signal**2
    x0 = (x - (1 - signal**2) * (x - signal * y) / variance) / signal
    return np.sqrt(A) * (x0 - y), A * bandwidth**2 + S**2


def test_of_a_gaussian_the_laplacian_is_that_of_a_parabola():
    _, variance = gaussian_center(0.5)
    found = measure(GaussianMixtureDenoiser(SPEC, 0.5), IMAGES[:1], p=2.0, probes=1)
    np.testing.assert_allclose(found, 16 / variance, rtol=1e-4)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_of_a_gaussian_it_is_the_one_by_hand(p):
    center, variance = gaussian_center(0.5)
    length = np.linalg.norm(center, axis=1)
    expected = (16 + p - 2) * length ** (p - 2) / variance ** (p - 1)
    network = GaussianMixtureDenoiser(SPEC, 0.5)
    found = measure(network, IMAGES[:1], p=p, probes=256, radius=0.01)
    # (u·x̂)² has mean 1/16 and standard deviation 0.083: .005 of 256 points, |p−2| times.
    np.testing.assert_allclose(found, expected, rtol=0.025)


def test_of_several_images_it_is_the_divergence_by_differences():
    images, t = 0.5 * noise(7, 5), 120
    y = np.asarray(images, np.float64).reshape(5, -1)

    def mean(x, alpha):
        away = ((x - np.sqrt(alpha) * y) ** 2).sum(axis=1)
        w = np.exp(-(away - away.min()) / (2 * (1 - alpha)))
        return w @ y / w.sum()

    def field(x):
        score = -(x - np.sqrt(A) * mean(x, A)) / S**2
        return score / np.linalg.norm(score)

    expected = []
    for x in np.asarray(X, np.float64).reshape(3, 16):
        at, steps = np.sqrt(A) * mean(x, ALPHA[t]), 1e-5 * np.eye(16)
        expected.append(-sum((field(at + s) - field(at - s)) @ s / 2e-10 for s in steps))
    fields = {"t": np.full(3, t), "probes": 2000, "radius": 0.001}
    found = measure(EmpiricalDenoiser(SPEC), images, **fields)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_at_a_memorized_image_the_whole_flux_goes_inward():
    found = measure(EmpiricalDenoiser(SPEC), IMAGES[:1], probes=1, radius=0.5)
    np.testing.assert_allclose(found, 16 / (0.5 * S * 4), rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"), [("p", -0.5), ("radius", 0.0), ("probes", 0), ("noise", 1.1)]
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"PLaplacian: {field} is {value}, expected"):
        PLaplacian(**{field: value})
