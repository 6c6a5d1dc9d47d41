import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.detectors import Detection, fit_threshold, null_or_refuse, reduce_steps
from memjax.detectors.base import step_window

PER_STEP = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("steps", "window"),
    [("first", (0, 1)), ("all", (0, 4)), (2, (0, 2)), ("3", (0, 3)), ((1, 3), (1, 3))],
)
def test_windows_by_hand(steps, window):
    assert step_window(steps, 4) == window
    expected = [[np.mean(row[window[0] : window[1]]) for row in prompt] for prompt in PER_STEP]
    np.testing.assert_allclose(reduce_steps(PER_STEP, steps), expected)


@pytest.mark.parametrize("steps", [0, 5, -1, (2, 2), (3, 1), (0, 5), (-1, 2)])
def test_windows_that_do_not_fit_are_refused(steps):
    with pytest.raises(ValueError, match=r"expected a non-empty one within 0\.\.4: sample more"):
        step_window(steps, 4)


@pytest.mark.parametrize("steps", ["latest", 2.0, (1, 2, 3), "last-", "1-b"])
def test_windows_that_mean_nothing_are_refused(steps):
    with pytest.raises(ValueError, match="expected 'first', 'half', 'all', 'last', a number K"):
        step_window(steps, 4)


@pytest.mark.parametrize(
    ("steps", "window"),
    [("half", (0, 4)), ("last", (8, 9)), ("last-3", (6, 9)), ("2-5", (2, 5)), (None, (0, 9))],
)
def test_windows_by_name(steps, window):
    assert step_window(steps, 9) == window


def test_scores_average_generations_and_scale_to_rms():
    found = Detection({"statistic": PER_STEP}, None, 0, 9)
    # Prompt 0: rows 0-3, 4-7, 8-11; first two steps: .5, 4.5, 8.5.
    np.testing.assert_allclose(found.scores(2), [4.5, 16.5])
    np.testing.assert_allclose(found.scores("first"), [4.0, 16.0])
    np.testing.assert_allclose(found.scores("first", rms=True), [4.0 / 3, 16.0 / 3])


def test_threshold_by_hand():
    scores = np.arange(100.0)
    assert fit_threshold(scores, 0.0) == 99.0
    assert fit_threshold(scores, 0.01) == 98.0
    assert fit_threshold(scores, 0.05) == 94.0
    assert fit_threshold(scores[::-1].reshape(10, 10), 0.29) == 70.0  # .29 · 100 = 28.999…


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60),
    target=st.floats(0, 0.999),
)
def test_threshold_is_the_smallest_that_keeps_the_rate(scores, target):
    values = np.array(scores)
    threshold = fit_threshold(values, target)
    assert np.mean(values > threshold) <= target
    assert np.mean(values > np.nextafter(threshold, -np.inf)) > target


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_threshold_refuses_scores_it_cannot_use(scores):
    with pytest.raises(ValueError, match="expected at least one and all finite: give the scores"):
        fit_threshold(np.array(scores))


@pytest.mark.parametrize("target", [-0.1, 1.0])
def test_threshold_refuses_impossible_rates(target):
    with pytest.raises(ValueError, match="expected a rate in"):
        fit_threshold(np.ones(3), target)


def test_a_missing_null_is_refused_with_the_ways_out():
    with pytest.raises(ValueError, match="trained without a null condition") as error:
        null_or_refuse(None)
    for way_out in ("condition dropout > 0", "null='random_labels'", "null='companion'"):
        assert way_out in str(error.value)
    assert null_or_refuse(cond := jnp.zeros((1, 2))) is cond
