import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull, CompanionNull, RandomNull, cache_null
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import (
    NoiseMagnitude,
    detect,
)
from memjax.sampling import DPMSolverPP2M, sample
from tests.closed_forms import (
    DIM,
    first_step,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_params,
    trajectory,
)

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
PARAMS = toy_params()
NULL = null_tokens()


def _detect(cond=None, x_T=None, *, eps_fn=toy_eps, null=NULL, **kwargs):
    cond = tokens(1, 5) if cond is None else cond
    x_T = noise(0, 2) if x_T is None else x_T
    kwargs = {"num_steps": 4, "guidance_scale": 3.0, **kwargs}
    return detect(eps_fn, PARAMS, x_T, cond, null, SCHEDULE, **kwargs)


def _halves(x, t, cond):
    """float64 ``‖ε_c − ε_u‖`` per example by two plain calls."""
    batch = x.shape[0]
    null = TokenCond(jnp.zeros_like(cond.embeddings), jnp.ones_like(cond.mask))
    steps = jnp.full((batch,), t)
    delta = np.asarray(toy_eps(PARAMS, x, steps, cond), np.float64)
    delta -= np.asarray(toy_eps(PARAMS, x, steps, null), np.float64)
    return np.sqrt((delta.reshape(batch, -1) ** 2).sum(1))


def test_linear_network_by_hand():
    # ε_c − ε_u = (3, 4, 0, 0) for the first condition and (0, 0, 6, 8) for the second.
    def eps_fn(params, x, t, cond):
        return x + cond

    cond = jnp.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 6.0, 8.0]])
    x, t, null = jnp.ones((2, 4)), jnp.array([3, 3]), jnp.zeros((1, 4))
    net = Denoiser(eps_fn, None, null)
    state = net.at(x, t, cond)
    np.testing.assert_allclose(NoiseMagnitude()(state, net), [5, 10], rtol=1e-6)
    rms = NoiseMagnitude(rms=True)(state, net)
    np.testing.assert_allclose(rms, [2.5, 5.0], rtol=1e-6)
    found = detect(eps_fn, None, x, cond, null, SCHEDULE, steps="first")
    np.testing.assert_allclose(found.per_step[..., 0], [[5, 5], [10, 10]], rtol=1e-6)
    np.testing.assert_allclose(found.scores(rms=True), [2.5, 5.0], rtol=1e-6)


@pytest.mark.parametrize("steps", ["first", 2, "all"])
def test_condition_equal_to_null_scores_zero(steps):
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), NULL)
    # The two halves of one batched matrix product may round differently: 1e-6, not 0.
    np.testing.assert_allclose(_detect(cond, steps=steps).per_step, 0.0, atol=1e-6)


def test_constant_network_scores_zero():
    found = _detect(eps_fn=_constant)
    np.testing.assert_array_equal(found.per_step, 0.0)


def _constant(params, x, t, cond):
    return jnp.full_like(x, 0.3)


def test_first_step_equals_two_halves_and_shares_the_null():
    cond, x_T, t = tokens(1, 3, padded=1), noise(0, 2), jnp.array(150)
    got = first_step(toy_eps, PARAMS, x_T, t, cond, NULL)
    expected = [
        _halves(x_T, 150, jax.tree.map(lambda a, p=p: jnp.repeat(a[p : p + 1], 2, 0), cond))
        for p in range(3)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    cached = cache_null(toy_eps, PARAMS, x_T, jnp.full((2,), t), NULL)
    again = first_step(toy_eps, PARAMS, x_T, t, cond, cached)
    np.testing.assert_allclose(again, got, rtol=1e-5)


def test_trajectory_magnitudes_are_those_of_each_visited_state():
    cond, x_T = tokens(1, 2), noise(0, 1)
    per_step, end = trajectory(
        toy_eps, PARAMS, x_T, cond, NULL, SCHEDULE, num_steps=4, guidance_scale=3.0
    )
    x = jnp.tile(x_T, (2, 1, 1, 1))
    run = sample(
        toy_eps,
        PARAMS,
        x,
        cond,
        NULL,
        SCHEDULE,
        num_steps=4,
        guidance_scale=3.0,
        tap=lambda info: (info.x_t, info.t),
    )
    states, ts = run.taps
    expected = np.stack([_halves(s, t, cond) for s, t in zip(states, ts, strict=True)], axis=-1)
    np.testing.assert_allclose(per_step[:, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(end[:, 0], run.x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_first_k_of_one_run_equals_a_run_stopped_at_k(k):
    whole, stopped = _detect(), _detect(steps=k)
    np.testing.assert_allclose(stopped.per_step, whole.per_step[..., :k], rtol=1e-5)
    np.testing.assert_allclose(stopped.scores(), whole.scores(k), rtol=1e-5)
    assert stopped.images is None
    assert whole.images.shape == (5, 2, 4, 4, 1)


def test_a_late_window_runs_as_far_as_it_must():
    late = _detect(steps=(1, 3))
    assert late.per_step.shape[-1] == 3
    np.testing.assert_allclose(late.scores((1, 3)), _detect().scores((1, 3)), rtol=1e-5)


@settings(max_examples=6, deadline=None)
@given(chunk=st.sampled_from([1, 2, 5, 99]), seed=st.integers(0, 99))
def test_chunk_size_and_prompt_order_do_not_matter(chunk, seed):
    cond, order = tokens(1, 5), np.random.default_rng(seed).permutation(5)
    whole = _detect(cond)
    shuffled = _detect(jax.tree.map(lambda a: a[order], cond), chunk=chunk)
    np.testing.assert_allclose(shuffled.per_step, whole.per_step[order], rtol=1e-4)
    np.testing.assert_allclose(shuffled.images, whole.images[order], rtol=1e-4, atol=1e-4)


def test_generations_do_not_meet():
    both, one = _detect(), _detect(x_T=noise(0, 2)[1:])
    np.testing.assert_allclose(one.per_step[:, 0], both.per_step[:, 1], rtol=1e-4)
    np.testing.assert_allclose(one.images[:, 0], both.images[:, 1], rtol=1e-4, atol=1e-4)


def test_progress_counts_prompts():
    seen = []
    _detect(chunk=2, steps="first", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def _random_null(k):
    return RandomNull(tokens(9, k))


@pytest.mark.parametrize(
    ("steps", "null", "evals"),
    [
        ("first", NULL, 2 * (5 + 1)),
        (3, NULL, 2 * 5 * 2 * 3),
        ("all", NULL, 2 * 5 * 2 * 4),
        ("first", _random_null(3), 2 * (5 + 3)),
        (3, _random_null(3), 2 * 5 * 4 * 3),
    ],
    ids=["first", "three", "all", "first_random", "three_random"],
)
def test_forward_evals_are_those_spent(steps, null, evals):
    assert _detect(steps=steps, null=null).forward_evals == evals


def test_other_nulls_work_along_the_trajectory():
    companion = CompanionNull(jax.tree_util.Partial(toy_eps, PARAMS), NULL)
    np.testing.assert_allclose(_detect(null=companion).per_step, _detect().per_step, rtol=1e-4)
    same = RandomNull(jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), NULL))
    np.testing.assert_allclose(_detect(null=same).per_step, _detect().per_step, rtol=1e-4)


def test_detecting_leaves_the_images_as_plain_sampling_makes_them():
    kwargs = {"num_steps": 4, "guidance_scale": 3.0, "stepper": DPMSolverPP2M()}
    cond, x_T = tokens(1, 1), noise(0, 2)
    found = _detect(cond, x_T, stepper=DPMSolverPP2M())
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), cond)
    plain = jax.jit(lambda x: sample(toy_eps, PARAMS, x, rows, NULL, SCHEDULE, **kwargs).x)(x_T)
    np.testing.assert_allclose(found.images[0], plain, rtol=1e-5, atol=1e-5)


def test_without_a_null_condition_everything_refuses():
    x, t, cond = noise(0, 2), jnp.array([5, 5]), tokens(1, 2)
    sentence = "trained without a null condition"
    with pytest.raises(ValueError, match=sentence):
        _detect(null=None)
    with pytest.raises(ValueError, match=sentence):
        NoiseMagnitude()(Denoiser(toy_eps, PARAMS).at(x, t, cond), Denoiser(toy_eps, PARAMS))
    with pytest.raises(ValueError, match=sentence):
        first_step(toy_eps, PARAMS, x, t[0], cond, None)
    tap = {"magnitude": NoiseMagnitude()}
    with pytest.raises(ValueError, match=sentence):
        sample(toy_eps, PARAMS, x, cond, None, SCHEDULE, num_steps=2, tap=tap)


def test_a_window_beyond_the_trajectory_is_refused():
    with pytest.raises(ValueError, match="sample more steps or choose fewer"):
        _detect(steps=5)


def test_cached_null_must_be_a_prediction():
    cached = CachedNull(jnp.zeros((2, 4, 4, 1)))
    net = Denoiser(toy_eps, PARAMS)
    state = net.at(noise(0, 2), jnp.array([5, 5]), tokens(1, 2), cached=cached)
    norms = NoiseMagnitude()(state, net)
    eps = toy_eps(PARAMS, noise(0, 2), jnp.array([5, 5]), tokens(1, 2))
    np.testing.assert_allclose(
        norms, np.linalg.norm(np.asarray(eps).reshape(2, DIM), axis=1), rtol=1e-5
    )
