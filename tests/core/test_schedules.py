import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.schedules import SCHEDULES, ScheduleSpec


def test_linear_matches_the_product_written_out():
    spec = ScheduleSpec("linear", 4, 0.1, 0.4)
    expected = [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7, 0.9 * 0.8 * 0.7 * 0.6]
    np.testing.assert_allclose(spec.build().alphas_bar, expected, rtol=1e-6)


def test_scaled_linear_is_linear_in_the_root():
    betas = ScheduleSpec("scaled_linear", 5, 0.01, 0.25).betas()
    np.testing.assert_allclose(np.sqrt(betas), [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-12)


def test_stable_diffusion_end_point():
    # 1 - prod(1 - beta) of the published 0.00085..0.012 schedule, by plain Python floats.
    product = 1.0
    for i in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        product *= 1.0 - root**2
    schedule = ScheduleSpec("scaled_linear", 1000, 0.00085, 0.012).build()
    np.testing.assert_allclose(schedule.alphas_bar[-1], product, rtol=1e-6)
    assert 0.004 < schedule.alphas_bar[-1] < 0.005


def test_cosine_telescopes_to_its_closed_form():
    n, s = 50, 0.008
    edge = [math.cos((i / n + s) / (1 + s) * math.pi / 2) ** 2 for i in range(n + 1)]
    alphas_bar = ScheduleSpec("cosine", n).build().alphas_bar
    np.testing.assert_allclose(alphas_bar[:-1], np.array(edge[1:-1]) / edge[0], rtol=1e-5)
    assert ScheduleSpec("cosine", n).betas()[-1] == pytest.approx(0.999)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(SCHEDULES),
    steps=st.integers(2, 300),
    start=st.floats(1e-5, 0.01),
    width=st.floats(0.0, 0.5),
)
def test_every_schedule_is_decreasing_and_preserves_variance(name, steps, start, width):
    schedule = ScheduleSpec(name, steps, start, start + width).build()
    assert schedule.num_timesteps == steps
    assert np.all(np.diff(schedule.alphas_bar) <= 0)
    assert np.all((schedule.alphas_bar > 0) & (schedule.alphas_bar < 1))
    total = (
        schedule.sqrt_alphas_bar.astype(np.float64) ** 2 + schedule.sigmas.astype(np.float64) ** 2
    )
    np.testing.assert_allclose(total, 1.0, rtol=3e-7)


def test_sigma_keeps_its_digits_at_the_clean_end():
    # sqrt(1 - float32(alphas_bar)) would be off by several per mille here.
    schedule = ScheduleSpec("linear", 1000, 1e-5, 0.02).build()
    np.testing.assert_allclose(schedule.sigmas[0], math.sqrt(1e-5), rtol=1e-6)


def test_building_gives_numpy_and_a_spec_hashes_by_value():
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(ScheduleSpec().build()))
    assert hash(ScheduleSpec("cosine")) == hash(ScheduleSpec("cosine"))
    assert ScheduleSpec("cosine") != ScheduleSpec("linear")


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"name": "cosin"}, "schedule name is 'cosin', expected one of"),
        ({"num_timesteps": 1}, "num_timesteps is 1, expected at least 2"),
        ({"beta_start": 0.0}, "beta_start=0.0"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "expected 0 < beta_start <= beta_end < 1"),
        ({"beta_end": 1.0}, "beta_end=1.0"),
    ],
)
def test_impossible_recipes_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScheduleSpec(**kwargs)
