import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.schedules import ScheduleSpec
from memjax.sampling import timesteps
from memjax.sampling.steppers import SPACINGS, make_grid


def test_each_spacing_by_hand():
    assert timesteps(10, 5, "leading").tolist() == [8, 6, 4, 2, 0]
    assert timesteps(10, 5, "leading", 1).tolist() == [9, 7, 5, 3, 1]
    assert timesteps(10, 5, "trailing").tolist() == [9, 7, 5, 3, 1]
    assert timesteps(10, 4, "linspace").tolist() == [9, 6, 3, 0]
    assert timesteps(10, 3, "linspace_open").tolist() == [9, 6, 3]
    assert timesteps(10, 4, "leading_open").tolist() == [8, 6, 4, 2]
    assert timesteps(1000, 50, "leading", 1)[[0, 1, -1]].tolist() == [981, 961, 1]
    assert timesteps(1000, 50, "leading_open", 1)[[0, 1, -1]].tolist() == [951, 932, 20]


@settings(max_examples=50, deadline=None)
@given(total=st.integers(2, 1000), share=st.floats(0, 1), spacing=st.sampled_from(SPACINGS))
def test_timesteps_decrease_within_the_schedule(total, share, spacing):
    most = total - spacing.endswith("_open")
    steps = timesteps(total, max(1, round(share * most)), spacing)
    assert np.all(np.diff(steps) < 0)
    assert steps[-1] >= 0
    assert steps[0] < total
    assert spacing != "trailing" or steps[0] == total - 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((10, 0), "num_steps is 0, expected between 1 and the schedule's 10"),
        ((10, 11), "num_steps is 11"),
        ((10, 10, "leading_open"), "num_steps is 10, expected between 1 and the leading_open sche"),
        ((10, 5, "even"), "spacing is 'even', expected one of"),
        ((10, 10, "leading", 1), "steps_offset=1 puts the first timestep at 10"),
    ],
)
def test_impossible_grids_are_refused(args, sentence):
    with pytest.raises(ValueError, match=sentence):
        timesteps(*args)


@pytest.mark.parametrize("clean", [True, False])
def test_grid_chains_its_steps(clean):
    schedule = ScheduleSpec(num_timesteps=100).build()
    grid = jax.device_get(
        make_grid(schedule, timesteps(100, 4, "leading", 1), set_alpha_to_one=clean)
    )
    assert grid.t.tolist() == [76, 51, 26, 1]
    np.testing.assert_array_equal(grid.signal, schedule.sqrt_alphas_bar[[76, 51, 26, 1]])
    np.testing.assert_array_equal(grid.sigma_next[:-1], grid.sigma[1:])
    np.testing.assert_array_equal(grid.signal_next[:-1], grid.signal[1:])
    last = (1.0, 0.0) if clean else (schedule.sqrt_alphas_bar[0], schedule.sigmas[0])
    assert (grid.signal_next[-1], grid.sigma_next[-1]) == last
    assert grid.is_last.tolist() == [False, False, False, True]
