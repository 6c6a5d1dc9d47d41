"""What holds for every registered detector, on a toy network whose calls are counted."""

import dataclasses
import inspect
import re
import typing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax.detectors
from memjax.core.denoiser import Denoiser
from memjax.core.registry import references
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import DETECTORS, NoiseMagnitude, detect
from memjax.explain import token_significance
from memjax.mitigations import optimize_embedding
from memjax.models.empirical import PlantedCond, PlantedData, PlantedOracle
from memjax.sampling import States, sample
from tests.closed_forms import ToyWithMaps, auc, noise, null_tokens, tokens, toy_params

# Detectors that tell memorized conditions of an exact denoiser, and the steps that do. The first
# steps say little there: the exact posterior hardly depends on the condition yet.
ORACLE = {
    "noise_magnitude": "all",
    "sharpness:steps=none": "all",
    "hessian_difference:steps=none": "all",
    "score_change:steps=none": "all",
    "anisotropy:steps=none": "all",
    "denoising_confidence:steps=none": "last-10",
    "flipd": "last",
    "p_laplacian": "last",
    "trajectory_decomposition": "half",
    "update_norm": "all",
}

WHOLE_NUMBERS = {"basin_exit", "edge_consistency"}  # counts, alike by chance on few small images

MEASURED = {"eps_uncond", "maps", "images"}  # needs that the toy network serves
DEFAULTS = {name: DETECTORS.parse(name) for name in DETECTORS}


def _within_few_steps(detector):
    """Its window on the short runs of these tests."""
    if detector.domain == "state":
        return 2  # the second state depends on guidance and schedule
    return "last-2" if str(detector.steps).startswith("last-") else detector.steps


RIDING = {
    name: dataclasses.replace(d, steps=_within_few_steps(d))
    for name, d in DEFAULTS.items()
    if d.domain in ("state", "trajectory", "images") and d.needs <= MEASURED
}
STATES = [name for name, d in RIDING.items() if d.domain == "state"]
FIRST = {name: dataclasses.replace(RIDING[name], steps="first") for name in STATES}
SPEC, OTHER = ScheduleSpec(num_timesteps=200, beta_end=0.08), ScheduleSpec("cosine", 200)
PARAMS, NULL, TOY = toy_params(), null_tokens(), ToyWithMaps()
COND, X_T = tokens(1, 5, padded=1), noise(0, 2)
ROWS: list[int] = []  # evaluated when a program runs; a forward-mode derivative counts twice


@jax.custom_jvp
def _counted(x, cond):
    jax.debug.callback(lambda: ROWS.append(len(x)))
    return x, cond


@_counted.defjvp
def _counted_twice(primals, tangents):
    jax.debug.callback(lambda: ROWS.append(2 * len(primals[0])))
    return primals, tangents


class Network:
    """The toy network; counts rows when it runs and calls when it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, x_t, t, cond):
        self.traces += 1
        x_t, cond = _counted(x_t, cond)
        return TOY(params, x_t, t, cond)

    def with_maps(self, params, x_t, t, cond):
        self.traces += 1
        x_t, cond = _counted(x_t, cond)
        return TOY.with_maps(params, x_t, t, cond)


NETWORK = Network()


def run(detectors=RIDING, cond=COND, *, seed=0, scale=3.0, spec=SPEC, null=NULL, **job):
    args = (NETWORK, toy_params(seed), noise(seed, 2), cond, null, spec.build())
    return detect(*args, detectors=detectors, num_steps=4, guidance_scale=scale, **job)


def counted(call):
    """Returns what a call gives and the rows it has evaluated."""
    ROWS.clear()
    out = call()
    jax.effects_barrier()
    return out, sum(ROWS)


@pytest.fixture(scope="module")
def everything():
    """All detectors on one run, and the rows it evaluated."""
    return counted(run)


@pytest.fixture(scope="module")
def first():
    return counted(lambda: run(FIRST, steps="first"))


def at(cond, detector):
    """A state of four rows and a detector's values there, with the rows evaluated for each."""
    x, t = noise(3, 4), jnp.array([150, 150, 20, 90])
    net = Denoiser(NETWORK, PARAMS, NULL, SPEC.build())
    state, known = counted(lambda: net.at(x, t, cond, maps="maps" in detector.needs))
    value, more = counted(lambda: detector(state, net))
    return value, known, more


def other(name, field):
    """Another value of a field than its default, or None where its type does not say one."""
    kind = typing.get_type_hints(type(DEFAULTS[name]))[field.name]
    options = [value for value in typing.get_args(kind) if value != field.default]
    if field.name == "steps":
        return "1-3"
    if kind is bool:
        return not field.default
    if typing.get_origin(kind) is typing.Literal:
        return options[0]
    if kind is float:
        return field.default / 2 or 1.0  # shares of the schedule stay shares
    return field.default + 1 if kind is int else None


@pytest.mark.parametrize("name", DETECTORS)
def test_its_text_gives_it_back(name):
    default = DEFAULTS[name]
    assert DETECTORS.text(default) == name
    assert hash(default) == hash(DETECTORS.parse(name))
    for field in dataclasses.fields(default):
        value = other(name, field)
        if value is not None:
            changed = dataclasses.replace(default, **{field.name: value})
            assert DETECTORS.parse(DETECTORS.text(changed)) == changed != default


@pytest.mark.parametrize("name", DETECTORS)
def test_it_says_what_it_is_what_it_costs_and_whom_it_is_from(name):
    cls = DETECTORS[name]
    assert inspect.cleandoc(cls.__doc__).splitlines()[0].endswith(".")
    assert "Attributes:" in cls.__doc__
    assert references(cls)
    assert cls.cost
    assert "steps" in {field.name for field in dataclasses.fields(cls)}


def test_the_readme_lists_what_is_registered():
    readme = Path(memjax.detectors.__file__).with_name("README.md").read_text("utf-8")
    table = [line for line in readme.splitlines() if line.startswith("| ")]
    assert table == DETECTORS.table().splitlines()


@pytest.mark.parametrize("name", [n for n in STATES if "eps_uncond" in RIDING[n].needs])
def test_where_the_condition_is_the_null_condition_it_is_zero(name):
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, 4, axis=0), NULL)
    # The two halves of one matrix product may round differently: 1e-6, not 0.
    np.testing.assert_allclose(at(cond, RIDING[name])[0], 0.0, atol=1e-6)


@pytest.mark.parametrize("name", STATES)
def test_compiled_it_is_what_it_is_eagerly(name):
    cond, detector = tokens(2, 4), RIDING[name]
    compiled = jax.jit(lambda cond: at(cond, detector)[0])(cond)
    np.testing.assert_allclose(compiled, at(cond, detector)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STATES)
def test_it_evaluates_the_network_as_often_as_it_says(name):
    detector = RIDING[name]
    value, known, more = at(tokens(2, 4), detector)
    assert (value.shape, known, more) == ((4,), 2 * 4, detector.evals * 4)


def test_the_evaluations_of_a_run_are_those_it_reports(everything, first):
    for found, rows in (everything, first):
        assert rows == found.forward_evals


@pytest.mark.parametrize("name", RIDING)
def test_it_gives_one_finite_number_a_prompt_generation_and_step(name, everything):
    found, _ = everything
    values, detector = found.statistics[name], RIDING[name]
    assert values.shape == (5, 2, 4)
    measured = np.arange(4) < (2 if detector.evals else 4)
    if detector.domain == "images":
        measured = np.arange(4) == 3
    np.testing.assert_array_equal(np.isfinite(values), np.broadcast_to(measured, values.shape))
    assert np.isfinite(found.scores(name=name)).all()


@pytest.fixture(scope="module")
def shuffled():
    """The same prompts in another order, two at a time."""
    order = np.array([3, 0, 4, 2, 1])
    return order, run(cond=jax.tree.map(lambda leaf: leaf[order], COND), chunk=2)


@pytest.mark.parametrize("name", RIDING)
def test_order_and_size_of_a_batch_do_not_matter(name, everything, shuffled):
    whole, (order, found) = everything[0], shuffled
    expected = whole.statistics[name][order]
    np.testing.assert_allclose(found.statistics[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STATES)
def test_the_first_step_alone_is_the_first_column_of_the_whole_run(name, everything, first):
    alone, whole = first[0].statistics[name], everything[0].statistics[name]
    np.testing.assert_allclose(alone[..., 0], whole[..., 0], rtol=1e-4, atol=1e-6)


def test_one_trace_while_numbers_change(everything, first):
    traces = NETWORK.traces
    before = everything[0]
    for numbers in ({"seed": 1}, {"scale": 7.5}, {"spec": OTHER}):
        after = run(**numbers)
        assert all(
            not np.array_equal(after.statistics[name], before.statistics[name], equal_nan=True)
            for name in RIDING
            if name not in WHOLE_NUMBERS
        )
        run(FIRST, steps="first", **numbers)
    assert NETWORK.traces == traces


def test_images_are_bit_for_bit_those_of_a_run_without_detectors(everything):
    np.testing.assert_array_equal(everything[0].images, run({}).images)


@pytest.mark.parametrize("name", [n for n in STATES if RIDING[n].differentiable])
def test_its_gradient_by_token_is_finite(name):
    gradient = jax.jit(partial(token_significance, TOY, statistic=RIDING[name]))
    cond, t = tokens(1, 2, padded=1), jnp.array([150, 20])
    found = gradient(PARAMS, X_T, t, cond, NULL, schedule=SPEC.build())
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found > 0, cond.mask)


@pytest.mark.parametrize(
    "name", [n for n, d in DEFAULTS.items() if d.domain != "state" or not d.differentiable]
)
def test_without_a_gradient_it_is_refused_by_name(name):
    detector = DEFAULTS[name]
    sentence = f"{type(detector).__name__} (looks at|has no gradient)"
    t = np.array([150, 150])
    states = States(X_T[None], t[None], X_T[None])
    with pytest.raises(ValueError, match=sentence):
        optimize_embedding(detector, TOY, PARAMS, states, COND, null_cond=NULL)
    with pytest.raises(ValueError, match=sentence):
        token_significance(TOY, PARAMS, X_T, t, COND, NULL, statistic=detector)


def test_a_model_without_a_null_condition_gets_the_others():
    served = {name: d for name, d in RIDING.items() if "eps_uncond" not in d.needs}
    found = run(served, null=None)
    assert all(np.isfinite(found.scores(name=name)).all() for name in served)
    assert found.forward_evals == 5 * 2 * (4 + 2 * sum(d.evals for d in served.values()))
    assert found.images.shape == (5, 2, 4, 4, 1)


@pytest.mark.parametrize("name", [n for n, d in RIDING.items() if "eps_uncond" in d.needs])
def test_without_a_null_condition_it_is_refused_by_name(name):
    sentence = f"^{re.escape(name)}: this model was trained without a null condition"
    with pytest.raises(ValueError, match=sentence):
        run({name: RIDING[name]}, null=None)


def test_three_statistics_that_cost_nothing_ride_on_one_run():
    tap = DETECTORS.parse_all(["noise_magnitude", "trajectory_decomposition", "update_norm"])
    job = {"num_steps": 4, "guidance_scale": 3.0}
    args = (PARAMS, noise(0, 5), COND, NULL, SPEC.build())
    riding = jax.jit(partial(sample, NETWORK, tap=tap, **job))
    (end, found), rows = counted(lambda: riding(*args))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(tap, (4, 5))
    assert rows == 2 * 5 * 4
    # The same from what a function of each step sees.
    seen = jax.jit(partial(sample, TOY, tap=lambda s: (s.x_t, s.eps_cond - s.eps_uncond), **job))
    x_end, (x_t, delta) = seen(*args)
    norms = np.linalg.norm(np.asarray(delta, np.float64).reshape(4, 5, -1), axis=2)
    np.testing.assert_allclose(found["noise_magnitude"], norms, rtol=1e-5)
    states = np.concatenate([x_t, x_end[None]]).astype(np.float64).reshape(5, 5, -1)
    moved = np.linalg.norm(np.diff(states, axis=0), axis=2)
    np.testing.assert_allclose(found["update_norm"], moved, rtol=1e-5)
    signal = np.sqrt(np.cumprod(1 - SPEC.betas()))[[150, 100, 50, 0]]
    for b in range(5):
        basis = states[[4, 0], b].T  # x_0 and x_T
        weights = np.linalg.lstsq(basis, states[:4, b].T, rcond=None)[0]
        expected = weights[0] - signal
        np.testing.assert_allclose(
            found["trajectory_decomposition"][:, b], expected, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(end, x_end, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def oracle():
    """All claims on an exact denoiser that has memorized the first ten of twenty conditions."""
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(20, 4, 4, 1)).astype(np.float32)
    images = (centers + 0.3 * rng.normal(size=centers.shape)).astype(np.float32)
    params = PlantedData(images, np.arange(20), centers)
    strength = np.where(np.arange(20) < 10, 0.9, 1e-6).astype(np.float32)
    cond = PlantedCond(jnp.arange(20), jnp.asarray(strength))
    network = PlantedOracle(OTHER, bandwidth=0.3)
    x_T = jax.random.normal(jax.random.key(2), (4, 4, 4, 1))
    return detect(
        network,
        params,
        x_T,
        cond,
        network.null_cond(),
        OTHER.build(),
        detectors=DETECTORS.parse_all(list(ORACLE)),
        guidance_scale=3.0,
        num_steps=50,
        chunk=20,
    )


@pytest.mark.parametrize("text", ORACLE)
def test_it_tells_memorized_conditions_of_an_exact_denoiser(text, oracle):
    scores = oracle.scores(ORACLE[text], name=text)
    assert auc(scores[:10], scores[10:]) == 1.0


def test_a_detector_from_elsewhere_is_served_like_any_other():
    @dataclasses.dataclass(frozen=True)
    class Elsewhere(NoiseMagnitude):
        def __call__(self, state, net):
            return 2 * super().__call__(state, net)

    DETECTORS.register("elsewhere", Elsewhere)
    try:
        assert DETECTORS.text(Elsewhere(rms=True)) == "elsewhere:rms=true"
        value, *_ = at(tokens(2, 4), DETECTORS.parse("elsewhere"))
        np.testing.assert_allclose(value, 2 * at(tokens(2, 4), NoiseMagnitude())[0], rtol=1e-6)
    finally:
        DETECTORS.unregister("elsewhere")
