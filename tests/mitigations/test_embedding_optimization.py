from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.schedules import ScheduleSpec
from memjax.detectors import NoiseMagnitude
from memjax.mitigations import States, collect_states, first_step_states, optimize_embedding
from memjax.sampling import sample, timesteps
from tests.closed_forms import (
    TOKENS,
    WIDTH,
    Counting,
    first_step,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_params,
)

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
PARAMS = toy_params()
NULL = null_tokens()
COND = tokens(1, 3, padded=1)
STATES = first_step_states(toy_eps, PARAMS, noise(0, 2), jnp.array(150), COND, NULL)

_jitted = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def _optimize(states=STATES, cond=COND, *, statistic=None, eps_fn=toy_eps, params=PARAMS, **kwargs):
    statistic = NoiseMagnitude() if statistic is None else statistic
    # One compiled loop for all of these tests: numbers are traced, whatever they are.
    numbers = {
        "learning_rate": 0.05,
        "target": 0.0,
        "radius": jnp.inf,
        "weight_decay": 0.0,
        "num_iters": 6,
        **kwargs,
    }
    numbers["target"] = jnp.broadcast_to(jnp.asarray(numbers["target"], jnp.float32), (3,))
    return _jitted(statistic, eps_fn, params, states, cond, **numbers)


def test_first_step_states_are_the_noise_at_t_with_one_null_half():
    counting = Counting(toy_eps)
    sizes = []

    def eps_fn(params, x, t, cond):
        sizes.append(x.shape[0])
        return counting(params, x, t, cond)

    states = first_step_states(eps_fn, PARAMS, noise(0, 2), jnp.array(150), COND, NULL)
    assert sizes == [2]  # generations, not prompts times generations
    for p in range(3):
        np.testing.assert_array_equal(states.x_t[p], noise(0, 2))
    assert np.all(np.asarray(states.t) == 150)
    assert states.t.shape == (3, 2)
    null_rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), NULL)
    expected = toy_eps(PARAMS, noise(0, 2), jnp.array([150, 150]), null_rows)
    np.testing.assert_allclose(states.null[1], expected, atol=1e-6)


def test_collected_states_are_those_of_the_guided_trajectory():
    kwargs = {"num_steps": 5, "guidance_scale": 3.0}
    states = collect_states(
        toy_eps, PARAMS, noise(0, 2), COND, NULL, SCHEDULE, steps=(0, 3), **kwargs
    )
    assert states.x_t.shape == (3, 4, 4, 4, 1)
    grid = timesteps(200, 5)
    np.testing.assert_array_equal(states.t, np.tile(np.repeat(grid[[0, 3]], 2), (3, 1)))
    for p in range(3):
        rows = jax.tree.map(lambda leaf, p=p: jnp.repeat(leaf[p : p + 1], 2, axis=0), COND)
        taps = sample(
            toy_eps,
            PARAMS,
            noise(0, 2),
            rows,
            NULL,
            SCHEDULE,
            tap=lambda i: (i.x_t, i.eps_uncond),
            **kwargs,
        ).taps
        x_t, null = (np.asarray(a)[[0, 3]].reshape(4, 4, 4, 1) for a in taps)
        np.testing.assert_allclose(states.x_t[p], x_t, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(states.null[p], null, rtol=1e-4, atol=1e-4)


def test_losses_begin_with_the_detector_and_fall():
    out = _optimize()
    magnitudes = first_step(toy_eps, PARAMS, noise(0, 2), jnp.array(150), COND, NULL)
    np.testing.assert_allclose(out.losses[0], np.mean(magnitudes, axis=1), rtol=1e-5)
    assert out.losses.shape == (7, 3)
    assert np.all(np.diff(np.asarray(out.losses), axis=0) < 0)
    np.testing.assert_array_equal(out.loss, out.losses[-1])
    assert out.iterations.tolist() == [6, 6, 6]
    again = first_step(toy_eps, PARAMS, noise(0, 2), jnp.array(150), out.cond, NULL)
    np.testing.assert_allclose(out.loss, np.mean(again, axis=1), rtol=1e-4)


def test_the_first_update_is_adam_with_decoupled_decay():
    def mean_loss(e):
        cond = COND._replace(embeddings=e)
        null = NULL
        values = first_step(toy_eps, PARAMS, noise(0, 2), jnp.array(150), cond, null)
        return jnp.sum(jnp.mean(values, axis=1))

    grad = np.asarray(jax.grad(mean_loss)(COND.embeddings), np.float64)
    e = np.asarray(COND.embeddings, np.float64)
    # m̂ = g and v̂ = g² at the first step.
    expected = e - 0.05 * (grad / (np.abs(grad) + 1e-8) + 0.5 * e)
    expected[:, [0, 3]] = e[:, [0, 3]]
    out = _optimize(num_iters=1, weight_decay=0.5)
    np.testing.assert_allclose(out.cond.embeddings, expected, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    decay=st.floats(0, 5),
    radius=st.one_of(st.just(np.inf), st.floats(0.01, 3.0)),
    lr=st.floats(0.001, 1.0),
)
def test_bos_and_padding_never_move_and_the_radius_is_kept(decay, radius, lr):
    out = _optimize(weight_decay=decay, radius=radius, learning_rate=lr)
    e, start = np.asarray(out.cond.embeddings), np.asarray(COND.embeddings)
    np.testing.assert_array_equal(e[:, [0, 3]], start[:, [0, 3]])
    np.testing.assert_array_equal(out.cond.mask, COND.mask)
    distance = np.sqrt(((e - start).astype(np.float64) ** 2).sum(axis=(1, 2)))
    assert np.all(distance > 0)
    assert np.all(distance <= radius * (1 + 1e-5))


def test_the_radius_is_reached_when_it_binds():
    out = _optimize(radius=0.1)
    offset = np.asarray(out.cond.embeddings - COND.embeddings, np.float64)
    np.testing.assert_allclose(np.sqrt((offset**2).sum(axis=(1, 2))), 0.1, rtol=1e-4)


def test_only_the_trainable_tokens_move():
    out = optimize_embedding(
        NoiseMagnitude(),
        toy_eps,
        PARAMS,
        STATES,
        COND,
        num_iters=2,
        weight_decay=0.1,
        trainable=jnp.array([True, False, True, True]),
    )
    moved = np.any(np.asarray(out.cond.embeddings != COND.embeddings), axis=-1)
    np.testing.assert_array_equal(moved, np.tile([True, False, True, False], (3, 1)))


def test_each_prompt_may_protect_its_own_tokens():
    allowed = jnp.array([[True, True, False, True], [False, False, True, True], [False] * 4])
    out = optimize_embedding(
        NoiseMagnitude(), toy_eps, PARAMS, STATES, COND, num_iters=1, trainable=allowed
    )
    moved = np.any(np.asarray(out.cond.embeddings != COND.embeddings), axis=-1)
    np.testing.assert_array_equal(moved, np.asarray(allowed & COND.mask))


def test_a_row_at_its_target_is_returned_unchanged():
    out = _optimize(target=1e6)
    np.testing.assert_array_equal(out.cond.embeddings, COND.embeddings)
    assert out.iterations.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(out.loss, out.losses[0])
    assert np.all(np.isnan(out.losses[1:]))


def test_finished_rows_are_frozen_at_the_embedding_that_reached_the_target():
    free = _optimize()
    course = np.asarray(free.losses)
    # Row 0 stops once it is at or below the free run's third value, row 1 at once, row 2 never.
    target = np.array([course[3, 0] + 1e-4, course[0, 1] + 1.0, 0.0], np.float32)
    out = _optimize(target=target)
    assert out.iterations.tolist() == [3, 0, 6]
    three = _optimize(num_iters=3)
    np.testing.assert_allclose(out.cond.embeddings[0], three.cond.embeddings[0], atol=1e-6)
    np.testing.assert_array_equal(out.cond.embeddings[1], COND.embeddings[1])
    np.testing.assert_allclose(out.cond.embeddings[2], free.cond.embeddings[2], atol=1e-6)
    losses = np.asarray(out.losses)
    np.testing.assert_allclose(losses[:4, 0], course[:4, 0], rtol=1e-5)
    assert np.isnan(losses[4:, 0]).all()
    assert np.isnan(losses[1:, 1]).all()
    np.testing.assert_allclose(out.loss, [course[3, 0], course[0, 1], course[6, 2]], rtol=1e-5)
    assert np.all(out.loss[:2] <= target[:2])


def test_a_target_reached_by_the_last_update_counts():
    course = np.asarray(_optimize().losses)
    out = _optimize(target=course[6] + 1e-4)
    assert out.iterations.tolist() == [6, 6, 6]
    np.testing.assert_allclose(out.loss, course[6], rtol=1e-5)


def test_no_iterations_is_the_identity():
    out = _optimize(num_iters=0)
    np.testing.assert_array_equal(out.cond.embeddings, COND.embeddings)
    np.testing.assert_allclose(out.loss, _optimize().losses[0], rtol=1e-6)
    assert out.losses.shape == (1, 3)


def test_condition_equal_to_null_has_nothing_to_lower():
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), NULL)
    states = first_step_states(_pooled, PARAMS, noise(0, 2), jnp.array(150), cond, NULL)
    out = _optimize(states, cond, eps_fn=_pooled)
    np.testing.assert_array_equal(out.losses[0], 0.0)
    np.testing.assert_array_equal(out.cond.embeddings, cond.embeddings)


def _pooled(params, x, t, cond):
    return x + jnp.sum(cond.embeddings, axis=(1, 2))[:, None, None, None]


def test_prompts_do_not_meet():
    together = _optimize()
    for p in range(3):
        row = jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], COND)
        states = States(*(leaf[p : p + 1] for leaf in STATES))
        alone = optimize_embedding(NoiseMagnitude(), toy_eps, PARAMS, states, row, num_iters=6)
        np.testing.assert_allclose(alone.cond.embeddings[0], together.cond.embeddings[p], atol=1e-5)


def test_the_same_state_twice_changes_nothing():
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], axis=1), STATES)
    np.testing.assert_allclose(
        _optimize(doubled).cond.embeddings, _optimize().cond.embeddings, atol=1e-5
    )


def test_rms_statistic_takes_an_rms_target():
    course = np.asarray(_optimize().losses)
    out = _optimize(statistic=NoiseMagnitude(rms=True), target=(course[2] + 1e-4) / 4.0)
    np.testing.assert_allclose(out.losses[0], course[0] / 4.0, rtol=1e-5)  # √16 pixels
    assert out.iterations.tolist() == [2, 2, 2]


def test_the_unconditional_half_is_not_computed_again():
    sizes = []

    def eps_fn(params, x, t, cond):
        sizes.append(x.shape[0])
        return toy_eps(params, x, t, cond)

    optimize_embedding(NoiseMagnitude(), eps_fn, PARAMS, STATES, COND, num_iters=2)
    assert set(sizes) == {6}  # three prompts times two states, never twice that


def test_other_forms_of_condition_come_back_in_kind():
    def eps_fn(params, x, t, cond):
        return toy_eps(params, x, t, tokens(0, 1)._replace(embeddings=cond, mask=_ones(cond)))

    def _ones(e):
        return jnp.ones(e.shape[:2], bool)

    null = jnp.zeros((1, TOKENS, WIDTH))
    args = (eps_fn, PARAMS, noise(0, 1), jnp.array(150), COND.embeddings, null)
    out = optimize_embedding(
        NoiseMagnitude(), eps_fn, PARAMS, first_step_states(*args), COND.embeddings, num_iters=1
    )
    assert out.cond.shape == COND.embeddings.shape
    assert np.all(np.any(np.asarray(out.cond != COND.embeddings), axis=-1)[:, 1:])


@pytest.mark.parametrize("steps", [(), (5,), (-1, 2)])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match="expected step indices between 0 and 4"):
        collect_states(toy_eps, PARAMS, noise(0, 1), COND, NULL, SCHEDULE, steps=steps, num_steps=5)


def test_without_a_null_condition_both_collectors_refuse():
    args = (toy_eps, PARAMS, noise(0, 1))
    with pytest.raises(ValueError, match="trained without a null condition"):
        first_step_states(*args, jnp.array(150), COND, None)
    with pytest.raises(ValueError, match="trained without a null condition"):
        collect_states(*args, COND, None, SCHEDULE, steps=(0,))


def test_one_trace_while_numbers_change():
    counting = Counting(toy_eps)

    def call(seed, lr, target, radius, decay):
        cond, params = tokens(seed, 3), toy_params(seed)
        states = first_step_states(toy_eps, params, noise(seed, 2), jnp.array(150), cond, NULL)
        return _optimize(
            states,
            cond,
            eps_fn=counting,
            params=params,
            learning_rate=lr,
            target=target,
            radius=radius,
            weight_decay=decay,
        ).loss

    first = call(0, 0.05, 0.0, jnp.inf, 0.0)
    traces = counting.traces
    second = call(1, 0.1, 0.5, 2.0, 0.01)
    assert counting.traces == traces <= 2  # the loop's body and the final loss
    assert np.abs(np.asarray(first - second)).max() > 1e-3


def test_collecting_states_is_one_trace():
    counting = Counting(toy_eps)
    run = jax.jit(partial(collect_states, counting, steps=(0, 2), num_steps=4))
    for seed, scale in ((0, 2.0), (1, 5.0)):
        run(
            toy_params(seed),
            noise(seed, 2),
            tokens(seed, 3),
            NULL,
            ScheduleSpec(num_timesteps=200, beta_end=0.02 + 0.01 * seed).build(),
            guidance_scale=scale,
        )
    assert counting.traces == 1
