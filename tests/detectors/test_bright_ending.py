"""The masked magnitude against float64 NumPy, along sampling, and where the mask says nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import of_texts
from memjax.core.guidance import CompanionNull, RandomNull
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TextCond, Trajectory
from memjax.detectors import DETECTORS, NoiseMagnitude, detect
from memjax.detectors.bright_ending import BrightEnding, bright_ending
from tests.closed_forms import ToyWithMaps, noise, null_tokens, tokens, toy_params

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trajectory(delta, end_map):
    return Trajectory(None, None, None, None, None, delta=delta, end_map=end_map)


def text(cond, length):
    return TextCond(*cond, jnp.full(len(cond.mask), length, jnp.int32))


@dataclasses.dataclass(frozen=True)
class ToyWithEnd(ToyWithMaps):
    """Pixels attend to the end of the text by their own value, the time and its embedding."""

    def with_end_map(self, params, x_t, t, cond):
        end = jnp.take_along_axis(cond.embeddings, (cond.length - 1)[:, None, None], axis=1)
        level = end[:, :, :1] + jnp.sin(t.astype(jnp.float32))[:, None, None]
        eps, maps = self.with_maps(params, x_t, t, cond)
        return eps, (maps, jax.nn.sigmoid(x_t[..., 0] * level))


NETWORK = ToyWithEnd()
COND, NULL = text(tokens(1, 3), 3), text(null_tokens(), 1)
ARGS = (NETWORK, toy_params(), noise(0, 2), COND, NULL, SCHEDULE)
JOB = {"num_steps": 4, "guidance_scale": 3.0}


def test_it_is_the_masked_norm_by_the_mean_of_the_last_mask():
    delta, end_map = draw(0, 5, 3, 4, 6, 2), np.abs(draw(1, 5, 3, 4, 6))
    mask = end_map[-1].astype(np.float64)
    masked = delta.astype(np.float64) * mask[None, ..., None]
    expected = np.sqrt(np.sum(masked**2, axis=(2, 3, 4))) / mask.mean(axis=(1, 2))
    seen = trajectory(delta, end_map)
    found = jax.jit(lambda seen: BrightEnding()(seen, None))(seen)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(BrightEnding()(seen, None), found, rtol=1e-6)
    np.testing.assert_allclose(
        BrightEnding(rms=True)(seen, None), expected / np.sqrt(48), rtol=1e-5
    )


@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
def test_even_attention_gives_the_magnitude(level):
    delta = draw(0, 5, 3, 4, 6, 2)
    found = BrightEnding()(trajectory(delta, np.full((5, 3, 4, 6), level, np.float32)), None)
    expected = np.linalg.norm(delta.astype(np.float64).reshape(5, 3, -1), axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_mask_has_mean_one_and_a_difference_outside_of_it_counts_nothing():
    end_map = np.zeros((1, 1, 4, 4), np.float32)
    end_map[..., :2] = 0.2
    np.testing.assert_allclose(bright_ending(end_map[0])[0, 0], [2, 2, 0, 0], rtol=1e-6)
    delta = np.zeros((1, 1, 4, 4, 1), np.float32)
    delta[..., 2:, :] = 5.0
    assert BrightEnding()(trajectory(delta, end_map), None)[0, 0] == 0


def test_along_sampling_it_weighs_by_what_is_seen_at_the_last_step():
    tap = {"masked": BrightEnding(), "magnitude": NoiseMagnitude()}
    seen = []

    class Look(BrightEnding):
        def __call__(self, trajectory, net):
            jax.debug.callback(lambda *a: seen.append(a), trajectory.delta, trajectory.end_map)
            jax.debug.callback(lambda *a: seen.append(a), trajectory.x_t)
            return super().__call__(trajectory, net)

    found = detect(*ARGS, detectors={**tap, "look": Look()}, **JOB)
    jax.effects_barrier()
    (x_t,) = (a for a in seen if len(a) == 1)
    ((delta, end_map),) = (a for a in seen if len(a) == 2)
    states = np.asarray(x_t[0], np.float64)[-1, ..., 0]
    end = np.repeat(np.asarray(COND.embeddings, np.float64)[:, 2, 0], 2)[:, None, None]
    expected = 1 / (1 + np.exp(-states * (end + np.sin(0.0))))
    np.testing.assert_allclose(end_map[-1], expected, rtol=1e-4, atol=1e-30)
    mask = (expected / expected.mean(axis=(1, 2), keepdims=True))[..., None]
    values = np.linalg.norm((np.asarray(delta) * mask).reshape(4, 6, -1), axis=2).T.reshape(3, 2, 4)
    np.testing.assert_allclose(found.statistics["masked"], values, rtol=1e-4)
    alone = detect(*ARGS, **JOB)
    np.testing.assert_array_equal(found.images, alone.images)
    np.testing.assert_allclose(found.statistics["magnitude"], alone.per_step, rtol=1e-6)
    assert found.forward_evals == alone.forward_evals


def test_order_and_size_of_a_batch_do_not_matter():
    tap, order = {"masked": BrightEnding()}, np.array([2, 0, 1])
    whole = detect(*ARGS, detectors=tap, **JOB)
    turned = jax.tree.map(lambda leaf: leaf[order], COND)
    found = detect(*ARGS[:3], turned, *ARGS[4:], detectors=tap, chunk=2, **JOB)
    np.testing.assert_allclose(found.per_step, whole.per_step[order], rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "null", "sentence"),
    [
        (ToyWithMaps(), NULL, "ToyWithMaps does not tell where it sees the end of a text"),
        (NETWORK, null_tokens(), "a TokenCond, expected that of a text with an end-of-text token"),
        (NETWORK, None, "trained without a null condition"),
    ],
)
def test_what_tells_no_end_is_refused_by_name(network, null, sentence):
    with pytest.raises(ValueError, match=f"^bright_ending: .*{sentence}"):
        detect(
            network, *ARGS[1:4], null, SCHEDULE, detectors=DETECTORS.parse_all(["bright_ending"])
        )


def test_a_trajectory_without_attention_or_an_end_is_refused():
    with pytest.raises(ValueError, match="carries no end_map"):
        BrightEnding()(trajectory(draw(0, 2, 2, 4, 4, 1), None), None)
    with pytest.raises(ValueError, match="masked needs the finished image, and 2 of 4 steps"):
        detect(*ARGS, detectors={"masked": BrightEnding()}, steps=2, **JOB)


@pytest.mark.parametrize("stands", [RandomNull, lambda cond: CompanionNull(None, cond)])
def test_what_stands_for_the_null_condition_of_texts_is_of_texts(stands):
    assert of_texts(stands(text(tokens(1, 2), 3)))
    assert not of_texts(stands(tokens(1, 2)))
    assert not of_texts(None)
