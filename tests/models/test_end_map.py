"""Where a network sees the end of a text, against the softmax of its own projections in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.denoiser import gives_end_map
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TextCond
from memjax.models.adapters import EpsFromV, EpsFromX0, LinenEps, PlainEps, _as_image
from memjax.models.unet.network import UNet
from tests.models.ops.test_softmax_attention import weights_in_float64
from tests.models.test_attention_maps import TINY, _queries_and_keys
from tests.models.test_attention_maps import tiny as plain_tiny
from tests.models.unet.unet_cases import CONFIGS

SPEC = ScheduleSpec("cosine")
tiny = plain_tiny


@pytest.fixture(scope="module")
def text(tiny):
    """The small network's inputs under a text of 7, 3 and 1 tokens."""
    params, x, t, cond = tiny
    return params, x, t, TextCond(*cond, jnp.array([7, 3, 1]))


@pytest.fixture(scope="module")
def told(text):
    network = LinenEps(UNet(TINY))
    return jax.jit(network)(*text), *jax.jit(network.with_end_map)(*text)


def test_it_is_the_mean_of_the_first_two_layers_attention_to_the_last_token(tiny, text, told):
    _, x, _, cond = text
    layers = []
    for q, k in list(_queries_and_keys(tiny))[:2]:
        q, k = (a.reshape(*a.shape[:2], TINY.num_heads, -1) for a in (q, k))
        weights = weights_in_float64(q, k, cond.mask)  # [b, heads, pixels, tokens]
        assert weights.shape == (3, TINY.num_heads, x.shape[1] * x.shape[2], 7)
        of_end = [weights[b, :, :, n - 1].mean(axis=0) for b, n in enumerate((7, 3, 1))]
        layers.append(np.reshape(of_end, x.shape[:3]))
    end = np.asarray(told[2][1])
    assert end.dtype == np.float32
    np.testing.assert_allclose(end, np.mean(layers, axis=0), atol=1e-6)
    assert np.ptp(end[1]) > 1e-4  # pixels differ


def test_asking_for_it_changes_neither_the_prediction_nor_the_maps(text, told):
    network = LinenEps(UNet(TINY))
    np.testing.assert_array_equal(told[1], told[0])
    _, maps = jax.jit(network.with_maps)(*text)
    np.testing.assert_array_equal(told[2][0], maps)


def test_a_layer_of_lower_resolution_is_enlarged():
    found = _as_image(jnp.array([[0.0, 4.0, 0.0, 4.0]]), (4, 4))
    # Between the middles of two pixels it is linear, and constant beyond them.
    np.testing.assert_allclose(found[0], np.tile([0.0, 1.0, 3.0, 4.0], (4, 1)), atol=1e-6)
    assert _as_image(jnp.zeros((2, 8)), (8, 16)).shape == (2, 8, 16)


@pytest.mark.parametrize("adapter", [EpsFromV, EpsFromX0])
def test_a_change_of_prediction_hands_it_on(adapter, text, told):
    network = adapter(LinenEps(UNet(TINY)), SPEC)
    eps, (maps, end) = jax.jit(network.with_end_map)(*text)
    np.testing.assert_allclose(eps, jax.jit(network)(*text), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(maps, told[2][0], atol=1e-6)
    np.testing.assert_allclose(end, told[2][1], atol=1e-6)


def _silent(params, x_t, t, cond):
    return x_t


@pytest.mark.parametrize(
    "wrap", [PlainEps, lambda f: EpsFromV(f, SPEC), lambda f: EpsFromX0(f, SPEC)]
)
def test_what_does_not_tell_it_offers_nothing(wrap):
    assert not gives_end_map(wrap(_silent))


def test_a_network_without_attention_or_a_condition_without_an_end_is_told_so(tiny):
    assert not gives_end_map(LinenEps(UNet(CONFIGS["no_attention"])))
    with pytest.raises(ValueError, match="a TokenCond, expected a TextCond"):
        LinenEps(UNet(TINY)).with_end_map(*tiny)
