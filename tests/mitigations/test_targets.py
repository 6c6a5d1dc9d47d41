"""Several targets from one pass are what separate runs give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.condition import embeddings_of
from memjax.detectors import NoiseMagnitude
from memjax.mitigations import first_step_states, optimize_embedding, optimize_targets
from tests.closed_forms import Counting, noise, null_tokens, tokens, toy_eps, toy_params

PARAMS, NULL, COND = toy_params(), null_tokens(), tokens(1, 3, padded=1)
STATES = first_step_states(toy_eps, PARAMS, noise(0, 4), jnp.array(150), COND, NULL)
NUMBERS = {"learning_rate": 0.05, "weight_decay": 0.01, "radius": jnp.inf}
TARGETS = (1.8, 1.3, 0.95, 0.0)

_several = jax.jit(optimize_targets, static_argnames=("statistic", "eps_fn", "num_iters", "group"))
_one = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def several(targets=TARGETS, eps_fn=toy_eps, **kwargs):
    given = {"num_iters": 8, **NUMBERS, **kwargs}
    # One shape for all of these tests: rows that are not asked for run to the end.
    rows = np.zeros((len(TARGETS), 3), np.float32)
    rows[: len(targets)] = np.asarray(targets, np.float32).reshape(len(targets), -1)
    targets = jnp.asarray(rows)
    return _several(NoiseMagnitude(), eps_fn, PARAMS, STATES, COND, targets=targets, **given)


def test_targets_from_one_pass_are_those_of_separate_runs():
    found = several()
    for k, target in enumerate(TARGETS):
        alone = _one(
            NoiseMagnitude(), toy_eps, PARAMS, STATES, COND, target=target, num_iters=8, **NUMBERS
        )
        # One float32 program against another: the last bits may differ, 1e-6 of values near 1.
        np.testing.assert_allclose(found.embeddings[k], embeddings_of(alone.cond), atol=1e-6)
        np.testing.assert_allclose(found.loss[k], alone.loss, atol=1e-6)
        np.testing.assert_array_equal(found.iterations[k], alone.iterations)


def test_one_number_a_target_stands_for_all_prompts():
    given = {"num_iters": 8, **NUMBERS, "targets": jnp.asarray(TARGETS)}
    found = _several(NoiseMagnitude(), toy_eps, PARAMS, STATES, COND, **given)
    np.testing.assert_array_equal(found.iterations, several().iterations)


def test_targets_are_reached_at_different_updates_and_each_is_the_first_that_did():
    found = several()
    losses, iterations = np.asarray(found.losses), np.asarray(found.iterations)
    assert iterations[:, 1].tolist() == [0, 3, 7, 8]  # a case in which targets matter
    for k, target in enumerate(TARGETS[:-1]):
        for p in range(3):
            n = iterations[k, p]
            assert (losses[:n, p] > target).all()
            if n < 8:
                assert losses[n, p] <= target
            assert found.loss[k, p] == losses[n, p]
    assert (iterations[-1] == 8).all()


def test_targets_may_differ_by_prompt_and_their_order_does_not_matter():
    table = np.asarray([[1.3, 0.95, 1.8], [0.95, 1.8, 1.3]], np.float32)
    found, plain = several(table), several((1.8, 1.3, 0.95))
    place = {1.8: 0, 1.3: 1, 0.95: 2}
    for k in range(2):
        for p in range(3):
            row = place[round(float(table[k, p]), 2)]
            np.testing.assert_allclose(found.embeddings[k, p], plain.embeddings[row, p], atol=1e-6)


def test_the_first_token_and_padding_stay_despite_weight_decay():
    found = several(weight_decay=0.5)
    start = np.asarray(embeddings_of(COND))
    moved = np.abs(np.asarray(found.embeddings) - start[None]).max(axis=-1)
    assert not moved[:, :, 0].any()
    assert not moved[:, :, -1].any()
    assert (moved[-1, :, 1:-1] > 0).all()


@pytest.mark.parametrize("group", [1, 2])
def test_states_may_be_taken_a_few_at_a_time(group):
    whole, parts = several(), several(group=group)
    # Adam divides by the root of its second moment: a gradient's last bits are seen in e.
    np.testing.assert_allclose(parts.embeddings, whole.embeddings, atol=2e-5)
    np.testing.assert_array_equal(parts.iterations, whole.iterations)


def test_a_group_that_does_not_divide_the_states_is_refused():
    with pytest.raises(ValueError, match="group is 3, expected a divisor of the 4 states"):
        several(group=3)


def test_other_numbers_do_not_trace_again():
    counting = Counting(toy_eps)
    several(eps_fn=counting)
    before = counting.traces
    several((2.0, 0.1, 0.3, 0.2), eps_fn=counting, learning_rate=0.1, weight_decay=0.2)
    assert counting.traces == before
