"""Anisotropy against float64 NumPy; its weights against the equations of the regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import cache_null
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import DETECTORS
from memjax.detectors.anisotropy import Anisotropy, fit_weights
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_exact, toy_params

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
NET = Denoiser(toy_eps, toy_params(), null_tokens(), SCHEDULE)
X, T, COND = noise(0, 3), jnp.array([5, 90, 190]), tokens(1, 3, padded=1)
LOW = np.full(3, 8)  # 0.041 of 200


def measure(detector, net=NET):
    return detector(net.at(X, T, COND), net)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_it_is_the_magnitude_at_t_and_the_cosine_at_little_noise():
    delta = toy_exact(X, T, COND) - toy_exact(X, T, null_tokens())
    norm = np.linalg.norm(delta, axis=1)
    at_low = toy_exact(X, LOW, null_tokens())
    aligned = cosine(at_low, toy_exact(X, LOW, COND) - at_low)
    np.testing.assert_allclose(measure(Anisotropy()), norm + 2 * aligned, rtol=1e-4)
    other = Anisotropy(magnitude=3.0, alignment=-1.0, rms=True)
    np.testing.assert_allclose(measure(other), 3 * norm / 4 - aligned, rtol=1e-4)


def test_of_one_channel_the_cosine_of_a_pixel_is_a_sign():
    at_low = toy_exact(X, LOW, null_tokens())
    signs = np.sign(at_low * (toy_exact(X, LOW, COND) - at_low)).mean(axis=1)
    found = measure(Anisotropy(magnitude=0.0, alignment=1.0, over="pixel"))
    np.testing.assert_allclose(found, signs, atol=1e-6)


def test_over_pixels_it_is_the_mean_of_the_cosines_over_channels():
    rng = np.random.default_rng(0)
    uncond, delta = rng.normal(size=(2, 3, 2, 2, 4))
    both = jnp.asarray(np.stack([delta + uncond, uncond]), jnp.float32)

    def network(params, x, t, cond):
        return params[cond, jnp.arange(len(x)) // 2 if len(x) == 6 else jnp.arange(len(x))]

    net = Denoiser(network, both, jnp.array([1]), SCHEDULE)
    state = net.at(jnp.zeros((3, 2, 2, 4)), T, jnp.zeros(3, int))
    found = Anisotropy(magnitude=0.0, alignment=1.0, over="pixel")(state, net)
    expected = cosine(uncond, delta).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_cosine_is_one_where_both_halves_point_the_same_way():
    net = Denoiser(lambda p, x, t, c: c * x, (), jnp.ones((1, 1, 1, 1)), SCHEDULE)
    state = net.at(X, T, jnp.full((3, 1, 1, 1), 3.0))
    found = Anisotropy(magnitude=0.0, alignment=1.0)(state, net)
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


@pytest.fixture(scope="module")
def split():
    """Twenty prompts of which the memorized are louder and better aligned, with overlap."""
    rng = np.random.default_rng(4)
    memorized = np.arange(20) < 8
    return rng.normal(size=20) + memorized, 0.2 * rng.normal(size=20) + 0.3 * memorized, memorized


def test_fitted_weights_solve_the_penalized_regression(split):
    magnitudes, cosines, memorized = split
    weights = np.array(fit_weights(*split))
    rows = np.stack([magnitudes, cosines], axis=1)
    spread = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / spread
    balance = np.where(memorized, 20 / 16, 20 / 24)

    def loss(intercept, slopes):
        logits = intercept + rows @ slopes
        losses = np.logaddexp(0, logits) - memorized * logits
        return balance @ losses + 0.5 * slopes @ slopes

    grid = np.linspace(-1, 1, 4001)
    best = grid[np.argmin([loss(b, weights * spread) for b in grid])]
    at_best = loss(best, weights * spread)
    for step in (1e-3 * np.eye(2)).tolist() + (-1e-3 * np.eye(2)).tolist():
        assert loss(best, weights * spread + step) > at_best
    assert np.all(weights > 0)


def test_fitted_on_a_split_they_are_finite_where_it_separates_perfectly(split):
    _, _, memorized = split
    weights = fit_weights(memorized * 2.0, np.zeros(20), memorized)
    assert np.isfinite(weights).all()
    assert weights[0] > 0 == weights[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m, c, y: (m[:3], c, y), "got 3 magnitudes, 20 cosines and 20 labels"),
        (lambda m, c, y: (m * np.nan, c, y), "all finite"),
        (lambda m, c, y: (m, c, y & False), "got 0 memorized prompts of 20"),
    ],
)
def test_a_split_that_says_nothing_is_refused(split, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_weights(*change(*split))


def test_what_it_lacks_is_said_in_a_sentence():
    with pytest.raises(ValueError, match="Anisotropy needs σ_t, and no noise schedule is given"):
        measure(Anisotropy(), Denoiser(toy_eps, toy_params(), null_tokens()))
    with pytest.raises(ValueError, match=r"Anisotropy: low is 1\.5, expected 0 to 1"):
        DETECTORS.parse("anisotropy:low=1.5")
    cached = cache_null(toy_eps, toy_params(), X, T, null_tokens())
    with pytest.raises(ValueError, match="give the null condition itself"):
        measure(Anisotropy(), Denoiser(toy_eps, toy_params(), cached, SCHEDULE))


def test_its_text_takes_negative_weights():
    assert DETECTORS.parse("anisotropy:alignment=-0.5").alignment == -0.5
    assert jax.tree.leaves(measure(DETECTORS.parse("anisotropy:alignment=-0.5")))[0].shape == (3,)
