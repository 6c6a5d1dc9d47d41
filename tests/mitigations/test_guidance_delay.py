import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.guidance import ClassifierFree
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import GuidanceStep
from memjax.mitigations import Problem
from memjax.mitigations.guidance_delay import DelayedGuidance, GuidanceDelay
from memjax.models.empirical import PlantedCond, PlantedData, PlantedOracle
from memjax.sampling import sample, timesteps
from tests.closed_forms import Counting, noise, null_tokens, tokens, toy_eps, toy_params

SPEC = ScheduleSpec(num_timesteps=200, beta_end=0.08)
ROWS, STEPS, SCALE = 6, 10, 3.0


def _problem(**changes):
    asked = Problem(
        [], toy_params(), tokens(1, ROWS), null_tokens(), noise(0, ROWS), ClassifierFree(SCALE)
    )
    return asked._replace(**changes)


def _delayed(problem=None, **fields):
    return GuidanceDelay(**fields)(problem or _problem(), None, None).guidance


@jax.jit
def _images(guidance):
    asked = _problem()
    args = (toy_eps, asked.params, asked.x_T, asked.cond, asked.null_cond, SPEC.build())
    return sample(*args, guidance=guidance, num_steps=STEPS).x


def _toy(x, t, embeddings):
    """The network in NumPy, double precision."""
    p = [np.asarray(a, np.float64) for a in toy_params()]
    hidden = np.tanh(x @ p[0] + np.einsum("bld,ldk->bk", embeddings, p[1]) + np.sin(t / 300) * p[2])
    return hidden @ p[3]


def _by_hand(until, early, dynamic):
    """The sampling loop in NumPy: images, and the step at which each one's guidance started."""
    alphas_bar = np.append(np.cumprod(1 - SPEC.betas()), 1.0)
    grid = [*timesteps(200, STEPS), -1]  # the last entry: the clean image
    x = np.asarray(noise(0, ROWS), np.float64).reshape(ROWS, -1)
    cond = np.asarray(tokens(1, ROWS).embeddings, np.float64)
    starts, norms = np.full(ROWS, round(until * STEPS)), []
    for i, t in enumerate(grid[:-1]):
        c, u = _toy(x, t, cond), _toy(x, t, np.zeros_like(cond))
        norms.append(np.linalg.norm(c - u, axis=1))
        for b in range(ROWS):
            if dynamic and i >= 2 and norms[i][b] > norms[i - 1][b] < norms[i - 2][b]:
                starts[b] = min(starts[b], i)
        scale = np.where(i >= starts, SCALE, early)[:, None]
        eps = u + scale * (c - u)
        now, then = alphas_bar[t], alphas_bar[grid[i + 1]]
        x0 = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
        x = np.sqrt(then) * x0 + np.sqrt(1 - then) * eps
    return x.reshape(ROWS, 4, 4, 1), starts


@pytest.mark.parametrize(
    ("fields", "until", "early"),
    [
        ({"until": 0.4}, 0.4, 0.0),
        ({"until": 1.0}, 1.0, 0.0),
        ({"until": 0.3, "early": -2.0}, 0.3, -2.0),
        ({"until": 0.7, "dynamic": True}, 0.7, 1.0),
        ({"until": 0.7, "dynamic": True, "early": 2.0}, 0.7, 2.0),
    ],
    ids=["static", "never", "opposite", "dynamic", "dynamic with a scale"],
)
def test_images_are_those_of_the_loop_in_double_precision(fields, until, early):
    want, starts = _by_hand(until, early, dynamic=fields.get("dynamic", False))
    if fields.get("dynamic"):  # else it would be the static rule that was tested
        assert len(set(starts)) > 2
        assert starts.min() < round(until * STEPS)
    np.testing.assert_allclose(_images(_delayed(**fields)), want, rtol=1e-4, atol=1e-4)


def test_the_dynamic_start_is_one_step_after_each_examples_first_strict_minimum():
    norms = np.array(
        [
            [5.0, 4.0, 3.0, 3.5, 9.0, 1.0, 2.0],  # least at 2: starts at 3, and goes on
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],  # only rises: at the latest start
            [5.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0],  # a plateau is no strict minimum
            [2.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # the earliest that can be seen
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [3.0, 2.0, np.nan, 1.0, 2.0, 3.0, 4.0],  # never seen across what is not a number
        ]
    )
    starts = [3, 5, 5, 2, 5, 5]
    rule = _delayed(_problem(guidance=ClassifierFree(100.0)), until=5 / 7, early=10.0, dynamic=True)
    zero = jnp.zeros((len(norms), 4))

    def one(carry, seen):
        index, norm = seen
        step = GuidanceStep(index, norms.shape[1], jnp.int32(0), zero)
        carry, eps = rule(carry, step, zero.at[:, 2].set(norm), zero)
        return carry, eps[:, 2]

    _, got = jax.lax.scan(one, rule.init(zero), (jnp.arange(7), jnp.asarray(norms.T, jnp.float32)))
    expected = np.where(np.arange(7) >= np.array(starts)[:, None], 100.0, 10.0) * norms
    np.testing.assert_allclose(got.T, expected, rtol=1e-6)


def test_no_delay_is_the_very_same_problem():
    asked = _problem()
    for early in (None, -3.0):
        assert GuidanceDelay(until=0.0, early=early)(asked, None, None) is asked
    # And the rule itself, with guidance from the first step on, changes no bit.
    rule = DelayedGuidance(jnp.float32(0.0), jnp.float32(-3.0), asked.guidance)
    np.testing.assert_array_equal(_images(rule), _images(asked.guidance))


def test_the_rule_that_follows_is_the_one_that_was_there():
    scales = jnp.linspace(1.0, 5.0, STEPS)
    delayed = _delayed(_problem(guidance=ClassifierFree(scales)), until=0.4)
    want = _images(ClassifierFree(jnp.where(jnp.arange(STEPS) < 4, 0.0, scales)))
    np.testing.assert_allclose(_images(delayed), want, rtol=1e-5, atol=1e-6)
    # Applied twice, the later start wins where both wait, and the outer one where it still waits.
    twice = _delayed(_problem(guidance=_delayed(until=0.6, early=2.0)), until=0.2, early=-1.0)
    stairs = jnp.array([-1.0] * 2 + [2.0] * 4 + [SCALE] * 4)
    np.testing.assert_allclose(
        _images(twice), _images(ClassifierFree(stairs)), rtol=1e-5, atol=1e-6
    )
    unguided = _delayed(_problem(guidance=None), until=0.5)
    want = _images(ClassifierFree(jnp.array([0.0] * 5 + [1.0] * 5)))
    np.testing.assert_allclose(_images(unguided), want, rtol=1e-5, atol=1e-6)


def test_numbers_are_leaves_and_do_not_compile_again():
    eps_fn = Counting(toy_eps)
    asked = _problem()

    @jax.jit
    def images(guidance):
        args = (eps_fn, asked.params, asked.x_T, asked.cond, asked.null_cond, SPEC.build())
        return sample(*args, guidance=guidance, num_steps=STEPS).x

    first = images(_delayed(until=0.4))
    traces = eps_fn.traces
    other = images(_delayed(_problem(guidance=ClassifierFree(7.0)), until=0.2, early=-1.5))
    assert eps_fn.traces == traces
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"until": 1.2}, "until is 1.2, expected a share"), ({"early": np.inf}, "early is inf")],
)
def test_impossible_numbers_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        GuidanceDelay(**fields)


def test_delay_and_opposite_guidance_lower_copying_on_the_exact_oracle():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 64)).astype(np.float32)
    component = np.repeat(np.arange(4), 2)
    images = (centers[component] + 0.3 * rng.normal(size=(8, 64))).astype(np.float32)
    oracle, each = PlantedOracle(ScheduleSpec("cosine", 200)), 12
    data = PlantedData(*map(jnp.asarray, (images, component, centers)))
    asked = np.repeat(np.arange(8), each)
    cond = PlantedCond(jnp.asarray(asked), jnp.full(len(asked), 0.5))
    x_T = jax.random.normal(jax.random.key(0), (len(asked), 64))

    @jax.jit
    def run(guidance):
        args = (oracle, data, x_T, cond, oracle.null_cond(), oracle.spec.build())
        return sample(*args, guidance=guidance, num_steps=50).x

    def copy_rate(guidance):
        return float((np.sqrt(((run(guidance) - images[asked]) ** 2).mean(1)) < 0.1).mean())

    # The exact conditional copies half of the time, and guidance makes that worse.
    usual = _problem(guidance=ClassifierFree(jnp.float32(3.0)))
    assert copy_rate(ClassifierFree(jnp.float32(1.0))) == pytest.approx(0.5, abs=0.15)
    delayed = [copy_rate(_delayed(usual, until=until)) for until in (0.2, 0.4, 0.6)]
    rates = [copy_rate(usual.guidance), *delayed]
    assert rates == sorted(rates, reverse=True)  # the longer the wait, the fewer the copies
    assert rates[0] > 0.8
    assert rates[-1] < 0.1
    assert copy_rate(_delayed(usual, until=0.4, early=-2.0)) < 0.5 * rates[2]
