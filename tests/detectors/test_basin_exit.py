"""The basin's exit against curves walked through one by one, and predictions known in advance."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Trajectory
from memjax.detectors import detect
from memjax.detectors.basin_exit import BasinExit, exit_step
from memjax.sampling import sample
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_params

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()


def walked(curve):
    """The first step below both neighbors; the first smallest one where there is none."""
    for k in range(1, len(curve) - 1):
        if curve[k - 1] > curve[k] < curve[k + 1]:
            return k
    return int(np.argmin(curve))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([5, 3, 1, 2, 0, 4], 2),  # the first, not the lowest
        ([1, 2, 3, 4, 5, 6], 0),  # only rises: it was never held
        ([6, 5, 4, 3, 2, 1], 5),  # only falls: held to the last step
        ([2, 4, 3, 1, 1, 5], 3),  # a flat bottom is no minimum: the first smallest value
        ([0, 4, 2, 3, 3, 3], 2),  # rises before it falls
        ([7, 7, 7, 7, 7, 7], 0),
    ],
)
def test_exits_by_hand(curve, expected):
    assert walked(curve) == expected
    assert exit_step(np.asarray(curve, np.float32)[:, None])[0] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_exits_are_those_of_a_walk(curve):
    assert exit_step(np.asarray(curve, np.float32)[:, None])[0] == walked(curve)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_too_short_for_a_minimum_exits_at_its_smallest(steps):
    curve = np.array([[3.0, 1.0], [2.0, 4.0]], np.float32)[:steps]
    np.testing.assert_array_equal(exit_step(curve), [walked(c) for c in curve.T])


def trajectory(norms):
    """Differences whose norm is known: ``[s, b]`` times a unit vector."""
    unit = np.random.default_rng(0).normal(size=(1, 1, 3, 2, 1))
    delta = norms[..., None, None, None] * unit / np.linalg.norm(unit)
    return Trajectory(None, None, None, None, None, delta=delta.astype(np.float32))


def test_its_mean_is_the_share_of_steps_before_the_exit():
    norms = np.array([[5, 1, 6], [3, 2, 5], [4, 3, 4], [9, 4, 3]], float)
    seen = trajectory(norms)
    found = jax.jit(lambda seen: BasinExit()(seen, None))(seen)
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    weighted = BasinExit(weighted=True)(seen, None)
    np.testing.assert_allclose(weighted, np.asarray(found) * norms, rtol=1e-6)


def test_a_difference_that_is_not_a_number_stays_one():
    norms = np.ones((4, 2))
    norms[2, 1] = np.nan
    for weighted in (False, True):
        found = BasinExit(weighted=weighted)(trajectory(norms), None)
        assert np.isnan(np.mean(found, axis=0)).tolist() == [False, True]


def test_along_sampling_it_sees_the_difference_of_each_step():
    args = (toy_eps, toy_params(), noise(0, 2), tokens(1, 3), null_tokens(), SCHEDULE)
    tap = {"exit": BasinExit(weighted=True)}
    found = detect(*args, detectors=tap, num_steps=8, guidance_scale=3.0)
    rows = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=0), args[3])
    start = np.tile(args[2], (3, 1, 1, 1))
    _, delta = sample(
        *args[:2],
        start,
        rows,
        *args[4:],
        tap=lambda s: s.eps_cond - s.eps_uncond,
        num_steps=8,
        guidance_scale=3.0,
    )
    norms = np.linalg.norm(np.asarray(delta, np.float64).reshape(8, 6, -1), axis=2)
    kept = [np.where(np.arange(8) < walked(c), c, 0) for c in norms.T]
    expected = np.stack(kept).reshape(3, 2, 8)
    np.testing.assert_allclose(found.statistics["exit"], expected, rtol=1e-4, atol=1e-6)
    assert found.forward_evals == 3 * 2 * 2 * 8


def test_without_differences_it_is_refused():
    with pytest.raises(ValueError, match="carries no difference of predictions"):
        BasinExit()(Trajectory(None, None, None, None, None), None)
    with pytest.raises(ValueError, match="without a null condition"):
        sample(
            toy_eps,
            toy_params(),
            noise(0, 2),
            tokens(1, 2),
            None,
            SCHEDULE,
            num_steps=4,
            tap={"exit": BasinExit()},
        )
