"""Sharpness against the toy network's own Jacobian, by hand and by differences, in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull, RandomNull, cache_null
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import DETECTORS, detect, prepare
from memjax.detectors.sharpness import HessianDifference, Sharpness
from memjax.explain import explain_tokens, token_significance
from memjax.mitigations import first_step_states, optimize_embedding
from memjax.sampling import sample
from tests.closed_forms import (
    DIM,
    TOKENS,
    WIDTH,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_exact,
    toy_hidden,
    toy_params,
)

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
SCHEDULE = SPEC.build()
PARAMS, NULL = toy_params(), null_tokens()
EXACT = toy_params(dtype=np.float64)
EPS = Sharpness(form="eps")


def difference(x, t, cond):
    """``ε_c − ε_u`` in float64, ``[b, DIM]``."""
    return (toy_hidden(x, t, cond) - toy_hidden(x, t, NULL)) @ EXACT.out


def curvature(x, t, cond):
    """``‖J_Δ Δ‖₂`` with ``J = mix diag(1 − h²) out`` of each half, worked out by hand."""
    along = difference(x, t, cond) @ EXACT.mix
    slopes = toy_hidden(x, t, NULL) ** 2 - toy_hidden(x, t, cond) ** 2
    return np.linalg.norm((slopes * along) @ EXACT.out, axis=1)


def variance(t):
    return 1 - np.cumprod(1 - SPEC.betas())[np.asarray(t)]


def network():
    return Denoiser(toy_eps, PARAMS, NULL, SCHEDULE)


@partial(jax.jit, static_argnames="detector")
def _measure(detector, x, t, cond, net):
    return detector(net.at(x, t, cond), net)


def measure(detector, x, t, cond, net=None):
    return _measure(detector, x, t, cond, network() if net is None else net)


X, T, COND = noise(0, 3), jnp.array([5, 90, 190]), tokens(1, 3, padded=1)


def test_the_jacobian_by_hand_is_the_one_by_differences():
    delta, step = difference(X, T, COND), 1e-4
    flat = np.asarray(X, np.float64).reshape(3, DIM)
    ends = [difference(flat + sign * step * delta, T, COND) for sign in (1, -1)]
    by_differences = np.linalg.norm((ends[0] - ends[1]) / (2 * step), axis=1)
    np.testing.assert_allclose(curvature(X, T, COND), by_differences, rtol=1e-6)


def test_both_forms_are_the_hessian_times_the_score_difference():
    expected = curvature(X, T, COND)
    np.testing.assert_allclose(measure(EPS, X, T, COND), expected, rtol=1e-5)
    score = measure(Sharpness(), X, T, COND)
    np.testing.assert_allclose(score, expected / variance(T), rtol=1e-5)
    rms = measure(Sharpness(rms=True), X, T, COND)
    np.testing.assert_allclose(rms, expected / variance(T) / np.sqrt(DIM), rtol=1e-5)


def halves_along_themselves(x, t, cond):
    """``J_c ε_c − J_u ε_u`` in float64, by central differences of each half."""
    flat, step, ends = np.asarray(x, np.float64).reshape(len(x), DIM), 1e-4, []
    for half in (cond, NULL):
        eps = toy_exact(x, t, half)
        out = [toy_exact(flat + sign * step * eps, t, half) for sign in (1, -1)]
        ends.append((out[0] - out[1]) / (2 * step))
    return ends[0] - ends[1]


def test_the_hessian_difference_is_that_of_both_halves_by_differences():
    expected = np.linalg.norm(halves_along_themselves(X, T, COND), axis=1)
    measured = measure(HessianDifference(form="eps"), X, T, COND)
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    score = measure(HessianDifference(rms=True), X, T, COND)
    np.testing.assert_allclose(score, expected / variance(T) / np.sqrt(DIM), rtol=1e-5)


def test_the_hessian_difference_of_a_gaussian_is_the_one_by_hand():
    def gaussian(params, x, t, cond):  # score −x/v, Hessian −1/v
        del params
        return jnp.asarray(SCHEDULE.sigmas)[t][:, None] * x / cond

    x, v_cond, v_null = np.ones((2, 4), np.float32), 0.5, 2.0
    net = Denoiser(gaussian, (), jnp.full((1, 1), v_null), SCHEDULE)
    state = net.at(jnp.asarray(x), jnp.array([5, 90]), jnp.full((2, 1), v_cond))
    expected = np.linalg.norm(x, axis=1) * (v_cond**-2 - v_null**-2)
    np.testing.assert_allclose(HessianDifference()(state, net), expected, rtol=1e-5)


def test_along_sampling_it_is_measured_within_its_window_and_nan_outside():
    tap = {"two": Sharpness(steps=(1, 3)), "all": Sharpness(form="eps", steps=None)}
    run = jax.jit(partial(sample, toy_eps, num_steps=4, guidance_scale=3.0, tap=tap))
    found = run(PARAMS, X, COND, NULL, SCHEDULE).taps
    plain = jax.jit(
        partial(sample, toy_eps, num_steps=4, guidance_scale=3.0, tap=lambda s: (s.x_t, s.t))
    )
    x_t, t = plain(PARAMS, X, COND, NULL, SCHEDULE).taps
    expected = [
        curvature(x, np.full(3, step), COND) for x, step in zip(x_t, np.asarray(t), strict=True)
    ]
    np.testing.assert_allclose(found["all"], expected, rtol=1e-4)
    scaled = np.stack(expected) / variance(t)[:, None]
    np.testing.assert_allclose(found["two"][1:3], scaled[1:3], rtol=1e-4)
    assert np.isnan(np.asarray(found["two"])[[0, 3]]).all()


def test_at_the_first_step_the_shared_unconditional_half_is_differentiated_all_the_same():
    found = detect(
        toy_eps,
        PARAMS,
        noise(0, 2),
        COND,
        NULL,
        SCHEDULE,
        steps="first",
        num_steps=4,
        detectors={"sharpness": Sharpness(), "eps": EPS},
    )
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), COND)
    expected = curvature(np.tile(noise(0, 2), (3, 1, 1, 1)), np.full(6, 150), rows).reshape(3, 2)
    np.testing.assert_allclose(found.statistics["eps"][..., 0], expected, rtol=1e-5)
    score = found.statistics["sharpness"][..., 0]
    np.testing.assert_allclose(score, expected / variance(150), rtol=1e-5)


def test_random_conditions_for_the_null_are_differentiated_and_counted():
    k = 3
    null = RandomNull(tokens(9, k))
    net = Denoiser(toy_eps, PARAMS, null, SCHEDULE)
    halves = [TokenCond(e[None], m[None]) for e, m in zip(*null.conds, strict=True)]
    cond, nulls = toy_hidden(X, T, COND), [toy_hidden(X, T, c) for c in halves]
    delta = cond - np.mean(nulls, axis=0)
    slopes = np.mean([h**2 for h in nulls], axis=0) - cond**2
    expected = np.linalg.norm((slopes * (delta @ EXACT.out @ EXACT.mix)) @ EXACT.out, axis=1)
    np.testing.assert_allclose(measure(EPS, X, T, COND, net), expected, rtol=1e-5)
    job = {"steps": "first", "num_steps": 4, "detectors": {"sharpness": EPS}}
    probe = prepare(toy_eps, PARAMS, X, null, SCHEDULE, **job)
    assert probe.forward_evals(3) == 9 + 3 * k + 9 * 2 * (1 + k)


def significance(detector, null_cond=NULL, **given):
    measured = jax.jit(partial(token_significance, toy_eps, statistic=detector))
    return measured(PARAMS, X, T, COND, null_cond, **given)


def test_the_gradient_by_tokens_is_the_one_by_differences():
    step = 1e-5
    gradient = np.zeros((3, TOKENS, WIDTH))
    start = np.asarray(COND.embeddings, np.float64)
    for token, feature in np.ndindex(TOKENS, WIDTH):
        ends = []
        for sign in (1, -1):
            moved = start.copy()
            moved[:, token, feature] += sign * step
            ends.append(curvature(X, T, TokenCond(moved, COND.mask)))
        gradient[:, token, feature] = (ends[0] - ends[1]) / (2 * step)
    expected = np.linalg.norm(gradient, axis=2)
    assert np.all(expected[:, :3] > 0)
    np.testing.assert_allclose(significance(EPS), expected, rtol=1e-4)


def test_explained_along_sampling_it_takes_the_schedule_of_the_run():
    weights = jax.jit(
        partial(explain_tokens, toy_eps, statistic=Sharpness(), steps=(0, 2), num_steps=4)
    )(PARAMS, noise(0, 1), COND, NULL, SCHEDULE)
    assert weights.shape == (3, 1, 2, TOKENS)
    np.testing.assert_array_equal(
        weights > 0, np.broadcast_to(COND.mask[:, None, None], weights.shape)
    )


def test_optimizing_the_embedding_lowers_it():
    states = first_step_states(toy_eps, PARAMS, noise(0, 2), jnp.array(150), COND, NULL)
    found = jax.jit(
        partial(optimize_embedding, Sharpness(), toy_eps), static_argnames=("num_iters",)
    )(PARAMS, states, COND, num_iters=6, null_cond=NULL, schedule=SCHEDULE)

    def loss(cond):
        rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), cond)
        x = np.tile(noise(0, 2), (3, 1, 1, 1))
        return (curvature(x, np.full(6, 150), rows) / variance(150)).reshape(3, 2).mean(axis=1)

    np.testing.assert_allclose(found.losses[0], loss(COND), rtol=1e-5)
    np.testing.assert_allclose(found.loss, loss(found.cond), rtol=1e-5)
    assert np.all(found.loss < 0.95 * found.losses[0])


def test_the_score_form_without_a_schedule_names_the_other_form():
    net = dataclasses.replace(network(), schedule=None)
    with pytest.raises(ValueError, match="form='eps', which ranks alike at one timestep"):
        measure(Sharpness(), X, T, COND, net)
    np.testing.assert_allclose(measure(EPS, X, T, COND, net), curvature(X, T, COND), rtol=1e-5)


def test_a_cached_null_cannot_be_differentiated():
    cached = cache_null(toy_eps, PARAMS, X, T, NULL)
    assert isinstance(cached, CachedNull)
    with pytest.raises(ValueError, match="give the null condition itself as null_cond"):
        measure(EPS, X, T, COND, Denoiser(toy_eps, PARAMS, cached))
    with pytest.raises(ValueError, match="give the null condition itself as null_cond"):
        significance(EPS, null_cond=None, cached=cached)
    with pytest.raises(ValueError, match="HessianDifference evaluates the unconditional half"):
        measure(HessianDifference(), X, T, COND, Denoiser(toy_eps, PARAMS, cached))
    # Beside the null condition it only saves a forward pass.
    given = jax.jit(lambda net, cached: EPS(net.at(X, T, COND, cached=cached), net))
    np.testing.assert_allclose(given(network(), cached), curvature(X, T, COND), rtol=1e-5)


def test_its_text_names_the_form():
    assert DETECTORS.parse("sharpness") == Sharpness()
    assert DETECTORS.text(Sharpness(form="eps", steps=3)) == "sharpness:form=eps:steps=3"
