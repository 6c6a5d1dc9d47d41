"""Mitigation on an exact denoiser: the statistic AND the copies must go down."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import NoiseMagnitude, detect
from memjax.mitigations import collect_states, optimize_embedding
from memjax.models.empirical import SoftCondDenoiser, SoftData
from tests.closed_forms import Mixture, MixtureEps

SPEC = ScheduleSpec("cosine", 200)
SIZE, COPIES, WIDTH = 36, 4, 8
STEPS = (5, 15, 25, 35)


@pytest.fixture(scope="module")
def oracle():
    """A broad component that generalises, and four near-deltas that tokens can call up."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(COPIES, SIZE)).astype(np.float32)
    keys = rng.normal(size=(COPIES, 1, WIDTH)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    params = Mixture(
        np.concatenate([np.zeros((1, SIZE), np.float32), points]),
        np.array([1.0] + [1e-4] * COPIES, np.float32),
        np.array([0.0] + [-40.0] * COPIES, np.float32),
        np.concatenate([np.zeros((1, 1, WIDTH), np.float32), 40.0 * keys]),
    )
    bos = np.zeros((COPIES, 1, WIDTH), np.float32)
    embeddings = jnp.asarray(np.concatenate([bos, 1.3 * keys], axis=1))
    cond = TokenCond(embeddings, jnp.ones((COPIES, 2), bool))
    null = TokenCond(jnp.zeros((1, 2, WIDTH)), jnp.ones((1, 2), bool))
    padded = params._replace(keys=np.concatenate([np.zeros_like(params.keys), params.keys], 1))
    return padded, points, cond, null


def _copy_rate(images, points):
    distance = np.sqrt(((images - points[:, None]) ** 2).mean(axis=-1))
    return float((distance < 0.3).mean())


def test_moving_the_embedding_lowers_the_statistic_and_the_copies(oracle):
    params, points, cond, null = oracle
    x_T = jax.random.normal(jax.random.key(0), (4, SIZE))
    schedule, eps_fn = SPEC.build(), MixtureEps(SPEC)
    sampling = {"num_steps": 50, "guidance_scale": 2.0}
    run = partial(detect, eps_fn, params, x_T, null_cond=null, schedule=schedule, **sampling)
    before = run(cond=cond)
    assert _copy_rate(before.images, points) > 0.9
    states = jax.jit(partial(collect_states, eps_fn, schedule=schedule, steps=STEPS, **sampling))(
        params, x_T, cond, null
    )
    out = jax.jit(partial(optimize_embedding, NoiseMagnitude(), eps_fn, num_iters=40))(
        params, states, cond, learning_rate=0.05
    )
    assert np.all(out.loss < 0.5 * np.asarray(out.losses[0]))
    after = run(cond=out.cond)
    assert np.all(after.scores() < 0.5 * before.scores())
    assert _copy_rate(after.images, points) < 0.1
    # What is sampled instead still has the spread of the component that generalises.
    assert after.images.std() == pytest.approx(1.0, abs=0.2)


def test_a_soft_memoriser_forgets_which_image_was_asked_for():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(16, SIZE)).astype(np.float32)
    keys = rng.normal(size=(16, WIDTH)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    eps_fn, params = SoftCondDenoiser(SPEC, beta=10.0), SoftData(images, keys)
    embeddings = np.stack([np.zeros((COPIES, WIDTH), np.float32), keys[:COPIES]], axis=1)
    cond = TokenCond(jnp.asarray(embeddings), jnp.ones((COPIES, 2), bool))
    null, schedule = eps_fn.null_cond(WIDTH, 2), SPEC.build()
    x_T = jax.random.normal(jax.random.key(0), (8, SIZE))
    sampling = {"num_steps": 50, "guidance_scale": 2.0}
    run = partial(detect, eps_fn, params, x_T, null_cond=null, schedule=schedule, **sampling)
    before = run(cond=cond)
    states = jax.jit(partial(collect_states, eps_fn, schedule=schedule, steps=STEPS, **sampling))(
        params, x_T, cond, null
    )
    out = jax.jit(partial(optimize_embedding, NoiseMagnitude(), eps_fn, num_iters=40))(
        params, states, cond, learning_rate=0.05
    )
    after = run(cond=out.cond)
    assert np.all(after.scores() < before.scores())
    assert after.scores().mean() < 0.5 * before.scores().mean()
    asked = images[:COPIES]
    assert _copy_rate(before.images, asked) > 0.8
    assert _copy_rate(after.images, asked) < 0.5 * _copy_rate(before.images, asked)
