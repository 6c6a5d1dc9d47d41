"""Entropy of cross-attention: closed forms, float64 NumPy, texts with an end, riding along."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import State, TextCond, Trajectory
from memjax.detectors import (
    DETECTORS,
    AttentionEntropy,
    AttentionEntropyChange,
    NoiseMagnitude,
    detect,
)
from memjax.models.adapters import LinenEps
from memjax.models.unet.network import UNet
from memjax.sampling import sample
from tests.closed_forms import noise, null_tokens, tokens, toy_eps, toy_params
from tests.models.test_attention_maps import TINY
from tests.models.unet.unet_cases import inputs, weights

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
PARAMS, NULL, LAYERS = toy_params(), null_tokens(), 5
RNG = np.random.default_rng(0)
MAPS = RNG.dirichlet(np.ones(6), size=(4, 3, LAYERS))  # steps, examples, layers, tokens


@dataclasses.dataclass(frozen=True)
class Toy:
    """:func:`toy_eps` whose layers attend to tokens by their embedding and the state."""

    def __call__(self, params, x_t, t, cond):
        return toy_eps(params, x_t, t, cond)

    def with_maps(self, params, x_t, t, cond):
        said = jnp.sum(cond.embeddings, axis=-1) * jnp.mean(x_t, axis=(1, 2, 3))[:, None]
        layers = jnp.arange(1.0, LAYERS + 1)[None, :, None]
        scores = jnp.where(cond.mask[:, None, :], layers * said[:, None, :], -jnp.inf)
        return self(params, x_t, t, cond), jax.nn.softmax(scores, axis=-1)


def _state(maps):
    return State(None, None, None, None, None, None if maps is None else jnp.asarray(maps))


def _trajectory(maps, cond=None):
    return Trajectory(None, None, None, None, None, jnp.asarray(maps), cond)


def _entropy(a):
    """float64, by a sum over the tokens that draw any attention at all."""
    return [-sum(p * np.log(p) for p in row if p > 0) for row in np.asarray(a, np.float64)]


@pytest.mark.parametrize("length", [1, 2, 77])
def test_even_attention_has_the_entropy_of_a_uniform_distribution(length):
    maps = np.full((2, 4, length), 1 / length, np.float32)
    for layer in (3, None):
        found = AttentionEntropy(layer)(_state(maps), None)
        np.testing.assert_allclose(found, np.log(length), rtol=1e-5, atol=1e-7)


def test_attention_to_one_token_has_none():
    maps = np.zeros((2, 4, 6), np.float32)
    maps[..., 2] = 1.0
    found, slope = jax.value_and_grad(lambda m: AttentionEntropy()(_state(m), None).sum())(maps)
    assert found == 0.0
    assert np.all(np.isfinite(slope))


def test_one_layer_or_the_mean_of_all():
    for layer in range(LAYERS):
        found = AttentionEntropy(layer)(_state(MAPS[0]), None)
        np.testing.assert_allclose(found, _entropy(MAPS[0][:, layer]), rtol=1e-5)
    found = AttentionEntropy(None)(_state(MAPS[0]), None)
    np.testing.assert_allclose(found, _entropy(MAPS[0].mean(axis=1)), rtol=1e-5)
    assert np.all(found > np.mean([_entropy(m) for m in MAPS[0].swapaxes(0, 1)], axis=0))


def test_gradient_is_that_of_the_formula():
    gradient = jax.grad(lambda m: AttentionEntropy(2)(_state(m), None).sum())(jnp.asarray(MAPS[0]))
    expected = np.zeros_like(MAPS[0])
    expected[:, 2] = -np.log(MAPS[0][:, 2]) - 1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_change_counts_the_end_of_the_text_and_what_follows():
    length = np.array([2, 4, 6])
    cond = TextCond(jnp.zeros((3, 6, 2)), jnp.ones((3, 6), bool), jnp.asarray(length))
    found = AttentionEntropyChange()(_trajectory(MAPS, cond), None)
    mean = MAPS.mean(axis=2)
    whole = np.array([_entropy(rows) for rows in mean])
    ends = [[row[n - 1 :] for row, n in zip(rows, length, strict=True)] for rows in mean]
    summary = np.array([[_entropy([end])[0] for end in rows] for rows in ends])
    np.testing.assert_allclose(found, whole + summary - summary[:1], rtol=1e-5)
    assert (summary - summary[:1]).min() < 0  # the change is signed


def test_without_an_end_of_text_all_tokens_sum_the_condition_up():
    whole = np.array([_entropy(rows) for rows in MAPS.mean(axis=2)])
    for cond in (None, tokens(0, 3), jnp.zeros((3, 6, 2))):
        found = AttentionEntropyChange()(_trajectory(MAPS, cond), None)
        np.testing.assert_allclose(found, 2 * whole - whole[:1], rtol=1e-5)


def test_padding_that_is_masked_out_contributes_nothing():
    padded = np.pad(MAPS[0], ((0, 0), (0, 0), (0, 2)))
    found, expected = (AttentionEntropy()(_state(m), None) for m in (padded, MAPS[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_names_fields_and_what_is_needed():
    assert DETECTORS.parse("attention_entropy") == AttentionEntropy(3, "first")
    whole = DETECTORS.parse("attention_entropy:layer=none:steps=all")
    assert whole == AttentionEntropy(None, "all")
    change = DETECTORS.parse("attention_entropy_change:steps=last-2")
    assert change == AttentionEntropyChange("last-2")
    assert (change.domain, AttentionEntropy.domain) == ("trajectory", "state")
    assert AttentionEntropy.needs == change.needs == {"maps"}


@pytest.mark.parametrize("layer", [LAYERS, -1])
def test_a_layer_that_is_not_there_is_refused(layer):
    sentence = rf"layer is {layer}, expected one of the network's {LAYERS} cross-attention layers"
    with pytest.raises(ValueError, match=sentence):
        AttentionEntropy(layer)(_state(MAPS[0]), None)


def test_a_state_without_maps_and_a_network_without_them_are_refused():
    with pytest.raises(ValueError, match="the state carries no attention maps"):
        AttentionEntropy()(_state(None), None)
    for name, detector in (("a", AttentionEntropy()), ("c", AttentionEntropyChange("all"))):
        with pytest.raises(ValueError, match="does not tell its cross-attention"):
            _detect(toy_eps, {name: detector})


def _detect(eps_fn, detectors, **kwargs):
    sampling = {"num_steps": 4, "guidance_scale": 3.0, **kwargs}
    return detect(
        eps_fn, PARAMS, noise(0, 2), tokens(1, 3), NULL, SCHEDULE, detectors=detectors, **sampling
    )


def test_scores_are_means_over_each_detectors_own_steps():
    detectors = {"first": AttentionEntropy(), "change": AttentionEntropyChange("last-2")}
    found = _detect(Toy(), detectors)
    values = found.statistics
    assert {name: v.shape for name, v in values.items()} == dict.fromkeys(detectors, (3, 2, 4))
    early = values["first"][..., 0].mean(axis=1)
    np.testing.assert_allclose(found.scores(name="first"), early, rtol=1e-6)
    late = values["change"][..., 2:].mean(axis=(1, 2))
    np.testing.assert_allclose(found.scores(name="change"), late, rtol=1e-6)
    alone = _detect(Toy(), {"first": AttentionEntropy()}, steps="first")
    np.testing.assert_allclose(alone.scores(), early, rtol=1e-5)


def test_too_few_steps_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"'last-10' is the window .*sample more steps or choose"):
        _detect(Toy(), {"change": AttentionEntropyChange()})


def test_riding_along_does_not_change_a_bit_of_the_images():
    """A U-Net of memjax, whose attention is only told where a detector asks for it."""
    config = dataclasses.replace(TINY, mid_attention=False)
    x, _, cond = inputs(config)
    null = jax.tree.map(lambda leaf: leaf[:1], cond._replace(embeddings=0 * cond.embeddings))
    mean = AttentionEntropy(layer=None, steps="all")
    several = {
        "magnitude": NoiseMagnitude(),
        "mean": mean,
        "first": AttentionEntropy(layer=0),
        "change": AttentionEntropyChange("last"),
    }

    def run(tap):
        return jax.jit(
            lambda params: sample(
                LinenEps(UNet(config)),
                params,
                x,
                cond,
                null,
                SCHEDULE,
                guidance_scale=3.0,
                num_steps=3,
                tap=tap,
            )
        )(weights(config))

    alone, one, all_of_them = (run(tap) for tap in (None, {"mean": mean}, several))
    assert 0.1 < np.std(alone.x) < 100
    np.testing.assert_array_equal(one.x, alone.x)
    np.testing.assert_array_equal(all_of_them.x, alone.x)
    # What is summed up may be fused otherwise: the last bit of float32.
    np.testing.assert_allclose(all_of_them.taps["mean"], one.taps["mean"], rtol=1e-6)
    assert {v.shape for v in all_of_them.taps.values()} == {(3, 3)}
    assert np.std(one.taps["mean"]) > 1e-4
