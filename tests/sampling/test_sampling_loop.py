from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.guidance import broadcast_cond
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import NoiseMagnitude
from memjax.sampling import DDIM, DDPM, DPMSolverPP2M, make_stepper, sample, timesteps
from memjax.sampling.steppers import make_grid
from tests.closed_forms import (
    SHAPE,
    Counting,
    Mixture,
    MixtureEps,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_params,
)

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
SCHEDULE = SPEC.build()
PARAMS = toy_params()
DETERMINISTIC = [DDIM(), DPMSolverPP2M()]


def _run(cond=None, null=None, *, eps_fn=toy_eps, params=PARAMS, x=None, **kwargs):
    x = noise(0, 3) if x is None else x
    cond = tokens(1, x.shape[0]) if cond is None else cond
    return sample(eps_fn, params, x, cond, null, SCHEDULE, **{"num_steps": 6, **kwargs})


@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=repr)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "leading_open"])
@pytest.mark.parametrize("clean", [True, False])
def test_constant_noise_keeps_x0_whatever_the_grid(stepper, spacing, clean):
    # If the network always says c, then x0 = (x_T − σ_T c)/√ᾱ_T at every step.
    c = np.asarray(noise(5, 3), np.float64)
    kwargs = {"stepper": stepper, "spacing": spacing, "set_alpha_to_one": clean}
    got = _run(eps_fn=lambda p, x, t, cond: jnp.asarray(c, jnp.float32), **kwargs).x
    alphas_bar = np.cumprod(1 - SPEC.betas())
    first = alphas_bar[timesteps(200, 6, spacing)[0]]
    x0 = (np.asarray(noise(0, 3), np.float64) - np.sqrt(1 - first) * c) / np.sqrt(first)
    end = 1.0 if clean else alphas_bar[0]
    np.testing.assert_allclose(got, np.sqrt(end) * x0 + np.sqrt(1 - end) * c, atol=2e-4)


def test_one_ddim_step_by_hand():
    class One:
        sqrt_alphas_bar = np.array([0.8, 0.6], np.float32)
        sigmas = np.array([0.6, 0.8], np.float32)
        alphas_bar = sqrt_alphas_bar**2
        num_timesteps = 2

    # x0 = (10 − .8·5)/.6 = 10; x' = .8·10 + .6·5 = 11.
    x, cond = jnp.full((1, 2), 10.0), jnp.zeros((1, 1))
    run = partial(sample, lambda p, x, t, c: jnp.full_like(x, 5.0), None, x, cond, None, One)
    np.testing.assert_allclose(run(num_steps=2, stop_after=1).x, [[11.0, 11.0]], rtol=1e-6)


@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=repr)
def test_gaussian_data_is_sampled_by_its_closed_form(stepper):
    # Data N(μ, h²): the flow keeps (x_t − √ᾱ μ)/√(ᾱ h² + 1 − ᾱ) constant.
    mean, h = 0.7, 0.5
    params = Mixture(
        np.full((1, 16), mean, np.float32),
        np.array([h**2], np.float32),
        np.zeros(1, np.float32),
        np.zeros((1, 4, 3), np.float32),
    )
    got = _run(eps_fn=MixtureEps(SPEC), params=params, num_steps=200, stepper=stepper).x
    alphas_bar = np.cumprod(1 - SPEC.betas())[-1]
    x = np.asarray(noise(0, 3), np.float64)
    kept = (x - np.sqrt(alphas_bar) * mean) / np.sqrt(alphas_bar * h**2 + 1 - alphas_bar)
    # Discretisation error of 200 steps on numbers up to 2.5: of the order 1/200 at first order.
    np.testing.assert_allclose(got, mean + h * kept, atol=2e-2)


def test_the_second_order_stepper_converges_faster():
    params = Mixture(
        np.full((1, 16), 0.7, np.float32),
        np.array([0.25], np.float32),
        np.zeros(1, np.float32),
        np.zeros((1, 4, 3), np.float32),
    )
    run = jax.jit(
        partial(_run, eps_fn=MixtureEps(SPEC), params=params, spacing="trailing"),
        static_argnames=("num_steps", "stepper"),
    )
    exact = run(num_steps=200).x
    error = {type(s): np.abs(run(num_steps=20, stepper=s).x - exact).max() for s in DETERMINISTIC}
    assert error[DPMSolverPP2M] < 0.5 * error[DDIM]


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm-solver++"])
def test_scale_one_is_conditional_and_scale_zero_unconditional(name):
    kwargs = {"stepper": make_stepper(name), "key": jax.random.key(3)}
    null = null_tokens()
    conditional = _run(**kwargs).x
    kwargs["key"] = jax.random.key(3)
    one = _run(null=null, guidance_scale=1.0, **kwargs).x
    np.testing.assert_allclose(one, conditional, rtol=1e-5, atol=1e-5)
    kwargs["key"] = jax.random.key(3)
    zero = _run(null=null, guidance_scale=0.0, **kwargs).x
    kwargs["key"] = jax.random.key(3)
    unconditional = _run(broadcast_cond(null, 3), **kwargs).x
    np.testing.assert_allclose(zero, unconditional, rtol=1e-5, atol=1e-5)
    assert np.abs(one - zero).max() > 0.05


def test_condition_equal_to_null_makes_guidance_irrelevant():
    cond = tokens(1, 3)
    np.testing.assert_array_equal(
        _run(cond, cond, guidance_scale=9.0).x, _run(cond, cond, guidance_scale=0.0).x
    )


def test_guidance_may_change_from_step_to_step():
    null, scales = null_tokens(), jnp.array([3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    first = _run(null=null, guidance_scale=3.0, stop_after=1).x
    np.testing.assert_allclose(_run(null=null, guidance_scale=scales, stop_after=1).x, first)
    whole = _run(null=null, guidance_scale=scales).x
    assert np.abs(whole - _run(null=null, guidance_scale=3.0).x).max() > 1e-2
    assert np.abs(whole - _run(null=null, guidance_scale=0.0).x).max() > 1e-3


@pytest.mark.parametrize("stepper", [DDIM(), DDPM(), DPMSolverPP2M()], ids=repr)
def test_a_tap_leaves_the_samples_bit_identical(stepper):
    run = partial(_run, null=null_tokens(), guidance_scale=4.0, stepper=stepper)
    plain = jax.jit(lambda key: run(key=key).x)(jax.random.key(1))
    for tap in ({"magnitude": NoiseMagnitude()}, lambda info: (info.x_t, info.t, info.eps_uncond)):
        tapped = jax.jit(lambda key, tap=tap: run(key=key, tap=tap))(jax.random.key(1))
        np.testing.assert_array_equal(tapped.x, plain)


def test_the_tap_sees_each_step_before_it_is_taken():
    info = _run(null=null_tokens(), guidance_scale=4.0, tap=lambda info: info)
    end, steps = info.x, info.taps
    assert steps.index.tolist() == list(range(6))
    assert steps.t.tolist() == timesteps(200, 6).tolist()
    np.testing.assert_array_equal(steps.x_t[0], noise(0, 3))
    u, c = np.asarray(steps.eps_uncond, np.float64), np.asarray(steps.eps_cond, np.float64)
    np.testing.assert_allclose(steps.eps, u + 4.0 * (c - u), atol=1e-5)
    t = jnp.full((3,), steps.t[2])
    expected = toy_eps(PARAMS, steps.x_t[2], t, tokens(1, 3))
    np.testing.assert_allclose(steps.eps_cond[2], expected, atol=1e-5)
    at = jnp.asarray(SCHEDULE.sqrt_alphas_bar)[steps.t][:, None, None, None, None]
    sigma = jnp.asarray(SCHEDULE.sigmas)[steps.t][:, None, None, None, None]
    np.testing.assert_allclose(at * steps.x0 + sigma * steps.eps, steps.x_t, atol=1e-5)
    np.testing.assert_allclose(end, steps.x0[-1], atol=1e-6)


def test_without_guidance_there_is_no_unconditional_prediction():
    assert _run(tap=lambda info: info).taps.eps_uncond is None
    assert _run().taps is None


@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=repr)
def test_stopping_early_gives_the_state_of_the_full_run(stepper):
    full = _run(null=null_tokens(), stepper=stepper, tap=lambda info: info.x_t)
    stopped = _run(null=null_tokens(), stepper=stepper, stop_after=4).x
    np.testing.assert_allclose(stopped, full.taps[4], atol=1e-6)


def test_rows_of_a_batch_do_not_meet():
    together = _run(null=null_tokens(), guidance_scale=3.0).x
    row = jax.tree.map(lambda leaf: leaf[1:2], tokens(1, 3))
    alone = _run(row, null_tokens(), guidance_scale=3.0, x=noise(0, 3)[1:2]).x
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_clipping_bounds_x0_and_keeps_the_state_consistent():
    info = _run(null=null_tokens(), guidance_scale=9.0, clip_x0=0.5, tap=lambda info: info)
    steps = info.taps
    assert np.abs(steps.x0).max() == pytest.approx(0.5)
    assert np.abs(info.x).max() <= 0.5 + 1e-6
    at = jnp.asarray(SCHEDULE.sqrt_alphas_bar)[steps.t][:, None, None, None, None]
    sigma = jnp.asarray(SCHEDULE.sigmas)[steps.t][:, None, None, None, None]
    np.testing.assert_allclose(at * steps.x0 + sigma * steps.eps, steps.x_t, atol=1e-5)
    loose = _run(null=null_tokens(), guidance_scale=9.0, clip_x0=1e6).x
    np.testing.assert_allclose(loose, _run(null=null_tokens(), guidance_scale=9.0).x, atol=1e-4)


def test_ddpm_step_against_the_posterior_in_float64(key):
    betas = SPEC.betas()
    alphas_bar = np.cumprod(1 - betas)
    steps = timesteps(200, 200)
    grid = jax.tree.map(lambda a: a[-3], make_grid(SCHEDULE, steps))
    x_t, x0 = np.asarray(noise(2, 3), np.float64), np.asarray(noise(3, 3), np.float64)
    t = 2
    # Ho et al. 2020, Eqs. 6-7, written with β_t.
    mean = np.sqrt(alphas_bar[t - 1]) * betas[t] / (1 - alphas_bar[t]) * x0
    mean += np.sqrt(1 - betas[t]) * (1 - alphas_bar[t - 1]) / (1 - alphas_bar[t]) * x_t
    std = np.sqrt((1 - alphas_bar[t - 1]) / (1 - alphas_bar[t]) * betas[t])
    draw = jax.random.normal(jax.random.clone(key), x_t.shape)
    args = (jnp.asarray(x_t, jnp.float32), None, jnp.asarray(x0, jnp.float32))
    _, got = DDPM().step((), grid, *args, key)
    np.testing.assert_allclose(got, mean + std * np.asarray(draw, np.float64), atol=1e-5)


def test_ddpm_ends_exactly_on_x0():
    # The last step's posterior is a point: any other coefficient is rounding of 1 − ᾱ.
    schedule = ScheduleSpec(num_timesteps=1000, beta_start=1e-5).build()
    info = sample(
        toy_eps,
        PARAMS,
        noise(0, 2),
        tokens(1, 2),
        None,
        schedule,
        num_steps=10,
        stepper=DDPM(),
        key=jax.random.key(0),
        tap=lambda info: info.x0,
    )
    np.testing.assert_allclose(info.x, info.taps[-1], rtol=1e-5, atol=1e-6)


def test_ddpm_draws_fresh_noise_each_step_and_repeats_with_its_key():
    run = partial(_run, stepper=DDPM())
    first = run(key=jax.random.key(1)).x
    np.testing.assert_array_equal(run(key=jax.random.key(1)).x, first)
    assert np.abs(run(key=jax.random.key(2)).x - first).max() > 0.1
    states = run(eps_fn=lambda p, x, t, c: x, key=jax.random.key(1), tap=lambda i: i.x_t).taps
    moves = np.diff(np.asarray(states), axis=0).reshape(5, -1)
    assert np.abs(np.corrcoef(moves)[0, 1:]).max() < 0.7


def test_ddpm_statistics_on_gaussian_data():
    # On exact N(0, 1) data, eps* = σ x and ancestral sampling keeps variance one.
    def eps_fn(params, x, t, cond):
        return jnp.asarray(SCHEDULE.sigmas)[t][:, None] * x

    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32))
    cond = jnp.zeros((400, 1))
    out = sample(
        eps_fn, None, x, cond, None, SCHEDULE, num_steps=200, stepper=DDPM(), key=jax.random.key(0)
    ).x
    # 8,000 draws: the standard deviation's own deviation is .008; the last step removes β_0 = 1e-4.
    assert np.std(out) == pytest.approx(1.0, abs=0.03)
    assert np.mean(out) == pytest.approx(0.0, abs=0.04)
    assert abs(np.corrcoef(x.ravel(), out.ravel())[0, 1]) < 0.5


def test_ddpm_needs_a_key():
    with pytest.raises(ValueError, match="the DDPM stepper draws noise: give sample"):
        _run(stepper=DDPM())


@pytest.mark.parametrize("stop", [0, 7])
def test_impossible_stops_are_refused(stop):
    with pytest.raises(ValueError, match=f"stop_after is {stop}, expected between 1 and num_ste"):
        _run(stop_after=stop)


def test_unknown_stepper_is_refused():
    with pytest.raises(ValueError, match="stepper is 'euler', expected one of"):
        make_stepper("euler")


def test_one_trace_while_numbers_change():
    counting = Counting(toy_eps)
    run = jax.jit(
        partial(sample, num_steps=4, stepper=DDPM()), static_argnums=0, static_argnames=()
    )
    null = null_tokens()

    def call(scale, seed, spec, cond_seed):
        key = jax.random.key(seed)
        return run(
            counting,
            toy_params(seed),
            noise(seed, 2),
            tokens(cond_seed, 2),
            null,
            spec.build(),
            guidance_scale=scale,
            key=key,
        ).x

    first = call(2.0, 0, SPEC, 0)
    traces = counting.traces
    changed = [
        call(3.0, 0, SPEC, 0),
        call(2.0, 1, SPEC, 0),
        call(2.0, 0, ScheduleSpec("cosine", 200), 0),
        call(2.0, 0, SPEC, 5),
    ]
    assert counting.traces == traces == 1
    assert all(np.abs(other - first).max() > 1e-3 for other in changed)
    assert first.shape == (2, *SHAPE)
