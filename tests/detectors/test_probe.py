"""A prepared measurement: the unconditional half once, one program, the same numbers as detect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.guidance import CachedNull
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import NoiseMagnitude, detect, prepare
from memjax.models.adapters import PlainEps

SHAPE = (4, 4, 2)
SCHEDULE = ScheduleSpec(num_timesteps=50).build()
CALLS: list[int] = []


def _predict(params, x_t, t, cond):
    """Counts the rows of every call, when it runs."""
    jax.debug.callback(lambda n: CALLS.append(int(n)), jnp.asarray(x_t.shape[0]))
    scale = (1.0 + jnp.cos(t.astype(jnp.float32)))[:, None, None, None]
    return params * x_t + scale * cond[:, None, None, :]


EPS = PlainEps(_predict)


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return draw(3, *SHAPE), draw(5, 2), draw(1, 2)  # noises, conditions, null


@pytest.mark.parametrize("steps", ["first", 3, "all"])
def test_a_compiled_program_gives_what_detect_gives(inputs, steps):
    x_T, cond, null = inputs
    grid = {"num_steps": 5, "guidance_scale": 2.0}
    expected = detect(EPS, jnp.float32(0.3), x_T, cond, null, SCHEDULE, steps=steps, **grid)
    probe = prepare(EPS, jnp.float32(0.3), x_T, null, SCHEDULE, steps=steps, **grid)
    shapes = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    compiled = probe.trace(shapes).lower().compile()
    parts = [probe(cond[i : i + 2], compiled)[0]["noise_magnitude"] for i in (0, 2, 3)]
    found = np.concatenate([parts[0], parts[1], parts[2][1:]])
    np.testing.assert_allclose(found, expected.per_step, rtol=1e-6)
    assert probe.forward_evals(5) == expected.forward_evals
    assert (probe.dim, probe.generations) == (32, 3)


@pytest.mark.parametrize("steps", ["first", "all"])
def test_each_detector_keeps_its_name_and_its_place(inputs, steps):
    """The first one named is the one that decides, whatever the alphabet says."""
    x_T, cond, null = inputs
    asked = {"z": NoiseMagnitude(rms=True), "a": NoiseMagnitude()}
    args = (EPS, jnp.float32(0.3), x_T, cond, null, SCHEDULE)
    both = detect(*args, detectors=asked, steps=steps, num_steps=3)
    assert list(both.statistics) == ["z", "a"]
    for name, detector in asked.items():
        alone = detect(*args, detectors={name: detector}, steps=steps, num_steps=3)
        np.testing.assert_allclose(both.statistics[name], alone.per_step, rtol=1e-6)
    np.testing.assert_array_equal(both.scores(), both.scores(name="z"))


def test_the_first_steps_unconditional_half_runs_once_for_all_batches(inputs):
    x_T, cond, null = inputs
    CALLS.clear()
    probe = prepare(EPS, jnp.float32(0.3), x_T, null, SCHEDULE, steps="first", num_steps=5)
    jax.effects_barrier()
    assert CALLS == [3]  # one row a noise
    for row in cond:
        probe(row[None])
    jax.effects_barrier()
    assert [3] + [3] * len(cond) == CALLS
    assert sum(CALLS) == probe.forward_evals(len(cond))
    assert isinstance(probe.traced["null"], CachedNull)


def test_what_does_not_fit_is_refused_before_anything_runs(inputs):
    x_T, _, null = inputs
    CALLS.clear()
    with pytest.raises(ValueError, match="expected a non-empty one within"):
        prepare(EPS, 1.0, x_T, null, SCHEDULE, steps=6, num_steps=5)
    with pytest.raises(ValueError, match="without a null condition"):
        prepare(EPS, 1.0, x_T, None, SCHEDULE)
    with pytest.raises(TypeError, match="eta"):
        prepare(EPS, 1.0, x_T, null, SCHEDULE, eta=0.5)
    with pytest.raises(ValueError, match="num_steps is 500"):
        prepare(EPS, 1.0, x_T, null, SCHEDULE, steps="first", num_steps=500)
    jax.effects_barrier()
    assert CALLS == []
