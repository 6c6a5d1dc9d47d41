"""Detection on an exact denoiser whose memorized conditions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import detect
from tests.closed_forms import Mixture, MixtureEps, auc

SPEC = ScheduleSpec("cosine", 200)
COUNT = 20  # conditions, half of them memorized
SIZE = 36


def planted(seed=0, share=0.9):
    """Twenty components; each of the first ten also carries a near-delta of weight ``share``.

    Condition i selects component i (and its delta) by log weights of 50; the null keeps all
    components and, at e^-12, no delta.
    """
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(COUNT, SIZE)) * 0.7
    copies = centers + 0.4 * rng.normal(size=centers.shape)
    means = np.concatenate([centers, copies]).astype(np.float32)
    variances = np.repeat([0.16, 1e-4], COUNT).astype(np.float32)
    prior = np.repeat([0.0, -12.0], COUNT).astype(np.float32)
    keys = np.eye(2 * COUNT, dtype=np.float32)[:, None, :]
    embeddings = np.zeros((COUNT, 1, 2 * COUNT), np.float32)
    rows = np.arange(COUNT)
    embeddings[rows, 0, rows] = 50.0
    weight = np.where(rows < COUNT // 2, share, 1e-6)
    embeddings[rows, 0, COUNT + rows] = 62.0 + np.log(weight / (1 - weight))
    cond = TokenCond(jnp.asarray(embeddings), jnp.ones((COUNT, 1), bool))
    null = TokenCond(jnp.zeros((1, 1, 2 * COUNT)), jnp.ones((1, 1), bool))
    return Mixture(means, variances, prior, keys), cond, null


@pytest.fixture(scope="module")
def found():
    params, cond, null = planted()
    x_T = jax.random.normal(jax.random.key(0), (4, SIZE))
    return detect(
        MixtureEps(SPEC), params, x_T, cond, null, SPEC.build(), guidance_scale=3.0, num_steps=50
    )


def test_all_steps_separate_every_memorised_condition(found):
    scores = found.scores("all")
    assert auc(scores[: COUNT // 2], scores[COUNT // 2 :]) == 1.0


def test_the_first_step_of_an_exact_oracle_says_less(found):
    first, whole = found.scores("first"), found.scores("all")

    def gap(scores):
        return scores[: COUNT // 2].mean() / scores[COUNT // 2 :].mean()

    assert gap(whole) > 1.5 * gap(first)


def test_memorised_conditions_are_copied(found):
    copies = planted()[0].means[COUNT:]
    distance = np.sqrt(((found.images - copies[:, None]) ** 2).mean(axis=-1))
    copied = (distance < 0.1).mean(axis=1)
    assert copied[: COUNT // 2].mean() > 0.7
    assert copied[COUNT // 2 :].mean() == 0.0


def test_a_generalising_oracle_stays_at_chance():
    params, cond, null = planted(share=1e-6)
    x_T = jax.random.normal(jax.random.key(1), (4, SIZE))
    found = detect(
        MixtureEps(SPEC), params, x_T, cond, null, SPEC.build(), guidance_scale=3.0, num_steps=50
    )
    scores = found.scores("all")
    # Ten against ten exchangeable conditions: .5 with a standard deviation of .13.
    assert 0.1 < auc(scores[: COUNT // 2], scores[COUNT // 2 :]) < 0.9
