import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.guidance import ClassifierFree
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import detect
from memjax.mitigations import MITIGATIONS, Problem, Setup, parse_chain
from memjax.mitigations.initial_noise import InitialNoise, adjust_noise
from memjax.sampling import timesteps
from tests.closed_forms import (
    DIM,
    SHAPE,
    Counting,
    noise,
    null_tokens,
    tokens,
    toy_eps,
    toy_params,
)

SPEC = ScheduleSpec(num_timesteps=200)
PROMPTS, EACH, STEPS = 3, 2, 4
_adjusted = jax.jit(adjust_noise, static_argnames="eps_fn")


def _setup(eps_fn=toy_eps):
    return Setup(eps_fn, SPEC.build(), {"num_steps": STEPS}, chunk=2)


def _problem(**changes):
    guidance = ClassifierFree(jnp.float32(3.0))
    args = ([], toy_params(), tokens(1, PROMPTS), null_tokens(), noise(0, EACH), guidance)
    return Problem(*args)._replace(**changes)


def _difference(x, t, embeddings):
    """ε_c − ε_∅ of the toy network in NumPy, double precision."""
    p = [np.asarray(a, np.float64) for a in toy_params()]
    base = x @ p[0] + np.sin(t / 300) * p[2]
    pulled = np.tanh(base + np.einsum("blk,lkd->bd", embeddings, p[1]))
    return (pulled - np.tanh(base)) @ p[3]


def _by_hand(x, embeddings, *, gamma, length, repeats):
    t = timesteps(200, STEPS)[0]
    x = np.asarray(x, np.float64).reshape(len(embeddings), DIM)
    for _ in range(repeats):
        here = _difference(x, t, embeddings)
        probe = x + length * here / np.linalg.norm(here, axis=1, keepdims=True)
        x = x - gamma * (_difference(probe, t, embeddings) - here)
    return x


@pytest.mark.parametrize("own", [False, True], ids=["shared noise", "own noise"])
def test_the_noise_is_that_of_the_formula_in_double_precision(own):
    x_T = noise(3, PROMPTS * EACH).reshape(PROMPTS, EACH, *SHAPE) if own else noise(0, EACH)
    asked = _problem(x_T=x_T, own_noise=own)
    # The probing step's length 2 is rho = 2/√16 = 0.5.
    cure = InitialNoise(gamma=0.9, repeats=3, rho=0.5)
    got = cure(asked, _setup(), jax.random.key(0))
    embeddings = np.repeat(np.asarray(asked.cond.embeddings, np.float64), EACH, axis=0)
    start = x_T if own else np.tile(x_T, (PROMPTS, 1, 1, 1))
    want = _by_hand(start, embeddings, gamma=0.9, length=2.0, repeats=3)
    assert np.abs(want.reshape(PROMPTS, EACH, *SHAPE) - np.asarray(x_T)).max() > 0.02
    # Float32 on numbers of order one, through six evaluations.
    np.testing.assert_allclose(got.x_T.reshape(-1, DIM), want, atol=1e-5)
    assert got.own_noise
    assert got._replace(x_T=asked.x_T, own_noise=own) == asked


@pytest.mark.parametrize("fields", [{"gamma": 0.0}, {"repeats": 0}, {"rho": 0.0}], ids=str)
def test_no_adjustment_is_the_very_same_problem(fields):
    asked = _problem()
    assert InitialNoise(**fields)(asked, _setup(), jax.random.key(0)) is asked
    numbers = {"gamma": 0.7, "rho": 0.5, "repeats": 2} | fields
    x = noise(3, PROMPTS)
    t, nothing = jnp.int32(150), null_tokens()
    got = _adjusted(toy_eps, asked.params, x, t, asked.cond, nothing, **numbers)
    np.testing.assert_array_equal(got, x)


def test_noise_stays_where_the_condition_pulls_nowhere():
    nothing = jax.tree.map(lambda a: jnp.repeat(a, PROMPTS, axis=0), null_tokens())
    x, numbers = noise(3, PROMPTS), {"gamma": 0.7, "rho": 0.5, "repeats": 2}
    got = _adjusted(toy_eps, toy_params(), x, jnp.int32(150), nothing, null_tokens(), **numbers)
    np.testing.assert_array_equal(got, x)


def test_new_numbers_do_not_compile_again():
    eps_fn = Counting(toy_eps)
    InitialNoise()(_problem(), _setup(eps_fn), jax.random.key(0))
    traces = eps_fn.traces
    other = InitialNoise(gamma=2.0, repeats=5, rho=0.1)
    other(_problem(x_T=noise(8, EACH)), _setup(eps_fn), jax.random.key(0))
    assert eps_fn.traces == traces


def test_the_whole_chain_samples_each_prompts_own_noise():
    text = "initial_noise:gamma=2+embedding_first_step:num_iters=2:target=0+guidance_delay"
    asked, setup = _problem(), _setup()
    done = parse_chain(MITIGATIONS, text)(asked, setup, jax.random.key(0))

    def images(problem):
        own = {"own_noise": problem.own_noise, "guidance": problem.guidance}
        args = (toy_eps, problem.params, problem.x_T, problem.cond, problem.null_cond)
        return detect(*args, setup.schedule, num_steps=STEPS, chunk=2, **own).images

    got = images(done)
    assert got.shape == (PROMPTS, EACH, *SHAPE)
    # As if both were asked for the same prompt, and its noise were shared.
    twice = done.take([1, 1])
    twice = twice._replace(x_T=twice.x_T[0], own_noise=False)
    np.testing.assert_allclose(got[1], images(twice)[0], rtol=1e-5, atol=1e-5)
    # The embedding was optimized at the noise that was adjusted before it, not at the shared one.
    first, second, _ = (parse_chain(MITIGATIONS, part) for part in text.split("+"))
    moved = first(asked, setup, jax.random.key(0))
    there, here = (second(problem, setup, jax.random.key(0)) for problem in (moved, asked))
    np.testing.assert_array_equal(done.cond.embeddings, there.cond.embeddings)
    assert np.abs(done.cond.embeddings - here.cond.embeddings).max() > 1e-4


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"repeats": -1}, "repeats is -1, expected at least 0"), ({"rho": np.inf}, "rho is inf")],
)
def test_impossible_numbers_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        InitialNoise(**fields)
