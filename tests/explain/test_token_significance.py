import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Detector, TokenCond
from memjax.detectors import NoiseMagnitude
from memjax.explain import ATTRIBUTIONS, explain_tokens, token_significance
from memjax.sampling import DDPM, sample
from tests.closed_forms import (
    TOKENS,
    WIDTH,
    Counting,
    Mixture,
    MixtureEps,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_params,
)

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
PARAMS = toy_params()
NULL = null_tokens()
T = jnp.array([5, 90, 190])


def _linear(params, x, t, cond):
    """``ε = x + Σ_l e_l W_l``: the magnitude is ``‖Σ_l e_l W_l‖`` against a null of zeros."""
    return x + jnp.einsum("bld,ldk->bk", cond.embeddings, params).reshape(x.shape)


def test_linear_network_in_closed_form():
    weights = np.random.default_rng(0).normal(size=(TOKENS, WIDTH, 16))
    cond = tokens(1, 3)
    e = np.asarray(cond.embeddings, np.float64)
    delta = np.einsum("bld,ldk->bk", e, weights)
    unit = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    grad = np.einsum("bk,ldk->bld", unit, weights)
    expected = {
        "grad_norm": np.linalg.norm(grad, axis=-1),
        "grad_x_input": np.abs((grad * e).sum(-1)),
        "integrated": np.abs((grad * e).sum(-1)),  # ∂m/∂e is the same all along the path
    }
    for attribution in ATTRIBUTIONS:
        got = token_significance(
            _linear,
            jnp.asarray(weights, jnp.float32),
            noise(0, 3),
            T,
            cond,
            NULL,
            attribution=attribution,
        )
        np.testing.assert_allclose(got, expected[attribution], rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Plain(Detector):
    """A function of network, state and conditions as a detector."""

    fn: Callable

    def __call__(self, state, net):
        return self.fn(net.eps_fn, net.params, state.x_t, state.t, state.cond, net.null_cond)


def test_gradient_against_finite_differences_in_float64():
    def magnitude(eps_fn, params, x_t, t, cond, null_cond):
        null = jax.tree.map(lambda a: jnp.broadcast_to(a, (x_t.shape[0], *a.shape[1:])), null_cond)
        delta = eps_fn(params, x_t, t, cond) - eps_fn(params, x_t, t, null)
        return jnp.sqrt(jnp.sum(delta.reshape(x_t.shape[0], -1) ** 2, axis=1))

    with jax.enable_x64(True):
        params, x = toy_params(dtype=np.float64), noise(0, 2, np.float64)
        cond, null = tokens(1, 2, dtype=np.float64), null_tokens(np.float64)
        t = jnp.array([5, 150])
        got = token_significance(toy_eps, params, x, t, cond, null, statistic=Plain(magnitude))
        assert got.dtype == jnp.float64
        run = jax.jit(partial(magnitude, toy_eps))
        grad, h = np.zeros((2, TOKENS, WIDTH)), 1e-6
        for place in np.ndindex(TOKENS, WIDTH):
            step = np.zeros((1, TOKENS, WIDTH))
            step[(0, *place)] = h
            up = run(params, x, t, cond._replace(embeddings=cond.embeddings + step), null)
            down = run(params, x, t, cond._replace(embeddings=cond.embeddings - step), null)
            grad[(slice(None), *place)] = (up - down) / (2 * h)
        # Central differences: error of the order h² + 1e-16/h.
        np.testing.assert_allclose(got, np.linalg.norm(grad, axis=-1), rtol=1e-7, atol=1e-8)


def test_soft_condition_gradient_is_the_posterior_covariance():
    # ∂x̂0/∂e = Cov_w(y, k) for points y_i whose log weight is ⟨e, k_i⟩ (methods: F2).
    spec = ScheduleSpec(num_timesteps=200, beta_end=0.08)
    rng = np.random.default_rng(0)
    params = Mixture(
        rng.normal(size=(6, 16)).astype(np.float32),
        np.zeros(6, np.float32),
        np.zeros(6, np.float32),
        rng.normal(size=(6, TOKENS, WIDTH)).astype(np.float32),
    )
    oracle, cond, x = MixtureEps(spec), tokens(1, 2), noise(3, 2)
    t = jnp.array([120, 180])
    weights = np.asarray(oracle.weights(params, x, t, cond)[0], np.float64)
    alphas_bar = np.cumprod(1 - spec.betas())[np.asarray(t)][:, None]
    delta = oracle(params, x, t, cond) - oracle(params, x, t, tokens_like_null(2))
    delta = np.asarray(delta, np.float64).reshape(2, -1)
    unit = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    y, k = params.means.astype(np.float64), params.keys.astype(np.float64)
    y_bar, k_bar = weights @ y, np.einsum("bn,nlk->blk", weights, k)
    pull = np.einsum("bnd,bd->bn", y[None] - y_bar[:, None], unit)
    grad = np.einsum("bn,bn,bnlk->blk", weights, pull, k[None] - k_bar[:, None])
    grad = grad * (np.sqrt(alphas_bar / (1 - alphas_bar)))[..., None]  # ε = (x − √ᾱ x̂0)/√(1−ᾱ)
    got = token_significance(oracle, params, x, t, cond, NULL)
    np.testing.assert_allclose(got, np.linalg.norm(grad, axis=-1), rtol=1e-3)


def tokens_like_null(rows):
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), NULL)


def test_integrated_gradients_add_up_to_the_score():
    # One token only, so that the absolute value hides no cancellation: m(e) − m(0) = m(e).
    params = jnp.asarray(np.random.default_rng(0).normal(size=(1, WIDTH, 16)), jnp.float32)

    def smooth(params, x, t, cond):
        pooled = jnp.einsum("bld,ldk->bk", cond.embeddings, params)
        return x + jnp.tanh(0.3 * pooled).reshape(x.shape)

    cond = TokenCond(tokens(1, 3).embeddings[:, :1], jnp.ones((3, 1), bool))
    null = TokenCond(jnp.zeros((1, 1, WIDTH)), jnp.ones((1, 1), bool))
    args = (smooth, params, noise(0, 3), T, cond, null)
    got = token_significance(*args, attribution="integrated")
    # Eight midpoints of a smooth path.
    net = Denoiser(smooth, params, null)
    np.testing.assert_allclose(got[:, 0], NoiseMagnitude()(net.at(*args[2:5]), net), rtol=5e-3)


def test_unused_tokens_and_padding_weigh_nothing():
    unused = PARAMS._replace(token=PARAMS.token * np.array([1, 0, 1, 1], np.float32)[:, None, None])
    got = token_significance(toy_eps, unused, noise(0, 3), T, tokens(1, 3, padded=1), NULL)
    np.testing.assert_array_equal(got[:, 1], 0.0)
    np.testing.assert_array_equal(got[:, 3], 0.0)
    assert np.all(np.asarray(got)[:, [0, 2]] > 0)

    def ignores_the_mask(params, x, t, cond):
        return toy_eps(params, x, t, cond._replace(mask=jnp.ones_like(cond.mask)))

    got = token_significance(ignores_the_mask, PARAMS, noise(0, 3), T, tokens(1, 3, padded=1), NULL)
    np.testing.assert_array_equal(got[:, 3], 0.0)


def test_condition_equal_to_null_is_zero_and_finite():
    def exactly_equal(params, x, t, cond):
        return toy_eps(params, x, t, cond) * 0.0 + x

    got = token_significance(exactly_equal, PARAMS, noise(0, 3), T, tokens(1, 3), NULL)
    np.testing.assert_array_equal(got, 0.0)


def test_each_row_is_its_own_whatever_the_batch():
    cond, x = tokens(1, 3), noise(0, 3)
    together = token_significance(toy_eps, PARAMS, x, T, cond, NULL)
    row = jax.tree.map(lambda leaf: leaf[1:2], cond)
    alone = token_significance(toy_eps, PARAMS, x[1:2], T[1:2], row, NULL)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4)


def test_planted_trigger_is_found():
    strong = PARAMS._replace(token=PARAMS.token * np.array([1, 1, 8, 1], np.float32)[:, None, None])
    small = tokens(1, 4)
    small = small._replace(embeddings=0.05 * small.embeddings)
    got = explain_tokens(
        toy_eps, strong, noise(0, 2), small, NULL, SCHEDULE, num_steps=4, guidance_scale=2.0
    )
    assert np.all(np.argmax(np.asarray(got).mean(axis=(1, 2)), axis=1) == 2)


@pytest.mark.parametrize("attribution", ATTRIBUTIONS)
def test_along_the_guided_trajectory_it_is_the_significance_at_each_state(attribution):
    cond, x_T, kwargs = tokens(1, 3), noise(0, 2), {"num_steps": 4, "guidance_scale": 3.0}
    got = explain_tokens(
        toy_eps,
        PARAMS,
        x_T,
        cond,
        NULL,
        SCHEDULE,
        steps=(0, 2),
        attribution=attribution,
        **kwargs,
    )
    assert got.shape == (3, 2, 2, TOKENS)
    rows = jax.tree.map(lambda leaf: leaf[1:2], cond)
    states = sample(
        toy_eps, PARAMS, x_T[1:], rows, NULL, SCHEDULE, tap=lambda i: (i.x_t, i.t), **kwargs
    ).taps
    for place, step in enumerate((0, 2)):
        x_t, t = states[0][step], states[1][step]
        expected = token_significance(
            toy_eps, PARAMS, x_t, t[None], rows, NULL, attribution=attribution
        )
        np.testing.assert_allclose(got[1, 1, place], expected[0], rtol=1e-3, atol=1e-5)


def test_the_trajectory_follows_guidance_of_the_right_sign():
    # Under anti-guidance (the halves swapped) later states, and so later significances, differ.
    run = partial(explain_tokens, toy_eps, PARAMS, noise(0, 2), tokens(1, 2), NULL, SCHEDULE)
    guided, anti = (run(num_steps=4, guidance_scale=s) for s in (7.5, -6.5))
    np.testing.assert_allclose(guided[:, :, 0], anti[:, :, 0], rtol=1e-5)
    assert np.abs(np.asarray(guided - anti))[:, :, 1:].max() > 0.1


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"attribution": "saliency"}, "attribution is 'saliency', expected one of"),
        ({"steps": (4,)}, "expected step indices between 0 and 3"),
        ({"steps": (-1, 2)}, "expected step indices between 0 and 3"),
        ({"steps": ()}, "expected step indices between 0 and 3"),
    ],
)
def test_impossible_questions_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        explain_tokens(
            toy_eps, PARAMS, noise(0, 1), tokens(1, 1), NULL, SCHEDULE, num_steps=4, **kwargs
        )


def test_without_null_or_tokens_it_refuses():
    args = (toy_eps, PARAMS, noise(0, 1))
    with pytest.raises(ValueError, match="trained without a null condition"):
        explain_tokens(*args, tokens(1, 1), None, SCHEDULE, num_steps=2)
    with pytest.raises(ValueError, match=r"without \[batch, tokens, features\] embeddings"):
        token_significance(*args, T[:1], jnp.zeros((1, 3)), NULL)


def test_one_trace_while_numbers_change():
    counting = Counting(toy_eps)
    static = ("eps_fn", "num_steps", "statistic", "stepper")
    run = jax.jit(explain_tokens, static_argnames=static)

    def call(seed, scale, spec):
        return run(
            counting,
            toy_params(seed),
            noise(seed, 2),
            tokens(seed, 2),
            NULL,
            spec.build(),
            num_steps=3,
            statistic=NoiseMagnitude(),
            stepper=DDPM(),
            key=jax.random.key(seed),
            guidance_scale=scale,
        )

    first = call(0, 2.0, ScheduleSpec(num_timesteps=200))
    traces = counting.traces
    second = call(1, 5.0, ScheduleSpec("cosine", 200))
    assert counting.traces == traces == 2  # the trajectory, and the gradient at its states
    assert np.abs(np.asarray(first - second)).max() > 1e-3
