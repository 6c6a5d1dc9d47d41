"""Attention of the condition's tokens through an adapter: its values, its order, who offers it."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memjax.core.denoiser import Denoiser as Net
from memjax.core.denoiser import gives_maps
from memjax.core.schedules import ScheduleSpec
from memjax.models.adapters import EpsFromV, EpsFromX0, LinenEps, PlainEps, nnx_eps
from memjax.models.unet.attention import Attention
from memjax.models.unet.denoiser import Denoiser
from memjax.models.unet.network import UNet, UNetConfig
from memjax.training.network import LinenEncode
from tests.models.ops.test_softmax_attention import weights_in_float64
from tests.models.test_adapters import LinenToy, NnxToy, plain
from tests.models.unet.unet_cases import CONFIGS, inputs, weights

SPEC = ScheduleSpec("cosine")
KEY = jax.random.key(0)
TINY = UNetConfig(
    in_channels=1,
    out_channels=1,
    block_out_channels=(8,),
    layers_per_block=1,
    attention_blocks=(True,),
    num_heads=2,
    transformer_layers=1,
    cross_attention_dim=6,
    norm_num_groups=4,
    zero_init_out=False,
)
# By hand, in the order in which the image passes through them.
ORDER = (
    ("down_blocks_0", "attentions_0"),
    ("mid_block", "attentions_0"),
    ("up_blocks_0", "attentions_0"),
    ("up_blocks_0", "attentions_1"),
)


@pytest.fixture(scope="module")
def tiny():
    x, t, cond = inputs(TINY)
    return weights(TINY), x, t, cond


@pytest.fixture(scope="module")
def told(tiny):
    """Returns the prediction without maps, and with them."""
    network = LinenEps(UNet(TINY))
    return jax.jit(network)(*tiny), *jax.jit(network.with_maps)(*tiny)


def _queries_and_keys(tiny):
    """What the projections of each layer gave, by Flax's own record of intermediate values."""
    params, *seen = tiny

    def kept(module, _):
        return module.name in ("to_q", "to_k")

    def run(params):
        return UNet(TINY).apply(
            {"params": params}, *seen, capture_intermediates=kept, mutable=["intermediates"]
        )[1]["intermediates"]

    found = jax.jit(run)(params)
    for block, attention in ORDER:
        layer = found[block][attention]["transformer_blocks_0"]["attn2"]
        yield [np.asarray(layer[name]["__call__"][0]) for name in ("to_q", "to_k")]


def test_maps_are_the_mean_probabilities_in_the_order_of_the_layers(tiny, told):
    mask, maps = tiny[3].mask, np.asarray(told[2])
    assert maps.shape == (3, len(ORDER), 7)
    assert maps.dtype == np.float32
    for layer, (q, k) in enumerate(_queries_and_keys(tiny)):
        q, k = (a.reshape(*a.shape[:2], TINY.num_heads, -1) for a in (q, k))
        expected = weights_in_float64(q, k, mask).mean(axis=(1, 2))
        # float32 probabilities of scores that float32 gave.
        np.testing.assert_allclose(maps[:, layer], expected, atol=1e-6)
    np.testing.assert_array_equal(np.swapaxes(maps, 0, 1)[:, ~mask], 0.0)
    assert np.ptp(maps[0], axis=0).max() > 1e-3  # no two layers attend alike


def test_asking_for_maps_does_not_change_a_bit_of_the_prediction(told):
    np.testing.assert_array_equal(told[1], told[0])


def test_recomputed_blocks_tell_the_same_and_have_its_gradient(tiny):
    """In the middle alone, whose gradient is that of one layer."""
    config = dataclasses.replace(TINY, attention_blocks=(False,))
    params, (x, t, cond) = weights(config), tiny[1:]

    def maps(e, remat=False):
        network = LinenEps(UNet(dataclasses.replace(config, remat=remat)))
        return network.with_maps(params, x, t, cond._replace(embeddings=e))[1]

    def loss(e):
        found = maps(e, remat=True)
        return jnp.sum(found**2), found

    plain = jax.jit(maps)
    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(cond.embeddings)
    np.testing.assert_allclose(found, plain(cond.embeddings), atol=1e-6)
    direction = np.random.default_rng(0).standard_normal(gradient.shape).astype(np.float32)
    steps = (cond.embeddings + h * direction for h in (-1e-2, 1e-2))
    ends = [np.asarray(plain(e), np.float64) for e in steps]
    slope = np.sum(gradient * direction)
    # Central differences: of second order in the step, and float32 noise of 1e-6 over 2e-2.
    expected = (np.sum(ends[1] ** 2) - np.sum(ends[0] ** 2)) / 2e-2
    np.testing.assert_allclose(slope, expected, rtol=1e-2, atol=1e-3)
    assert abs(slope) > 1e-2


class Chain(nn.Module):
    """Twelve layers, whose names sort otherwise as texts than as numbers."""

    num_cross_attentions = 12

    @nn.compact
    def in_turn(self, x, t, cond):
        for k in range(self.num_cross_attentions):
            x = Attention(1, name=f"attentions_{k}")(x, cond * (1.0 + k))
        return x


def test_the_tenth_layer_comes_after_the_second():
    rng = np.random.default_rng(0)
    x, cond = (rng.standard_normal((1, n, 2)).astype(np.float32) for n in (3, 4))
    init = functools.partial(Chain().init, method="in_turn")
    params = jax.eval_shape(init, KEY, x, None, cond)["params"]
    same = jax.tree.map(lambda leaf: jnp.eye(2)[: leaf.shape[0]] if leaf.ndim == 2 else 0.0, params)
    same = jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, like.shape), same, params)
    _, maps = jax.jit(LinenEps(Chain(), "in_turn").with_maps)(same, x, None, cond)
    # Layer k sees (k + 1) times the keys, so what it adds to the values grows from layer to layer.
    y = x.astype(np.float64)
    for k in range(12):
        keys = (1.0 + k) * cond.astype(np.float64)
        probabilities = weights_in_float64(y[:, :, None], keys[:, :, None])[:, 0]
        np.testing.assert_allclose(maps[:, k], probabilities.mean(axis=1), atol=1e-5)
        y = probabilities @ keys


def test_the_half_of_a_denoiser_that_denoises_tells_of_its_network():
    module = Denoiser(dataclasses.replace(TINY, transformer_layers=2), (3, 4), 4)
    x, t, labels = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32), jnp.zeros((2, 2), jnp.int32)
    params = jax.eval_shape(module.init, KEY, x, t, labels)["params"]
    cond = jax.eval_shape(LinenEncode(module), params, labels)
    _, maps = jax.eval_shape(LinenEps(module, "denoise").with_maps, params, x, t, cond)
    assert maps.shape == (2, 2 * len(ORDER), 3)
    assert module.num_cross_attentions == 2 * len(ORDER)


def _plain_and_maps(params, x_t, t, cond):
    return params * x_t


_plain_and_maps.with_maps = lambda params, x_t, t, cond: (params * x_t, cond[:, None])


@pytest.mark.parametrize("change", [EpsFromV, EpsFromX0])
def test_a_change_of_prediction_changes_no_maps(change):
    x, t, cond = np.ones((2, 4, 4, 1), np.float32), np.array([3, 400]), np.ones((2, 5), np.float32)
    network = change(PlainEps(_plain_and_maps), SPEC)
    assert gives_maps(network)
    eps, maps = network.with_maps(0.3, x, t, cond)
    np.testing.assert_array_equal(eps, network(0.3, x, t, cond))
    np.testing.assert_array_equal(maps, cond[:, None])


def test_only_a_network_that_tells_its_attention_offers_it():
    silent = LinenEps(UNet(CONFIGS["no_attention"]))
    for network in (silent, LinenEps(LinenToy()), PlainEps(plain), nnx_eps(NnxToy(nnx.Rngs(0)))[0]):
        for wrapped in (network, EpsFromV(network, SPEC), EpsFromX0(network, SPEC)):
            assert not gives_maps(wrapped)
    with pytest.raises(AttributeError, match="UNet does not tell its cross-attention"):
        silent.with_maps  # noqa: B018
    with pytest.raises(ValueError, match="LinenEps does not tell its cross-attention: give"):
        Net(silent, None).at(None, None, None, maps=True)


@pytest.mark.parametrize(("name", "layers"), [("sd1", 16), ("sd2", 11), ("no_attention", 0)])
def test_layers_are_counted_before_anything_is_traced(name, layers):
    assert CONFIGS[name].num_cross_attentions == layers
    assert UNet(CONFIGS[name]).num_cross_attentions == layers
    assert gives_maps(LinenEps(UNet(CONFIGS[name]))) == (layers > 0)


def test_initializing_makes_parameters_alone():
    variables = jax.eval_shape(UNet(TINY).init, jax.random.key(0), *inputs(TINY))
    assert list(variables) == ["params"]


def test_nothing_is_computed_that_was_not_asked_for(tiny):
    params, *seen = tiny
    network = LinenEps(UNet(TINY))
    alone = str(jax.make_jaxpr(network)(params, *seen))
    told = str(jax.make_jaxpr(network.with_maps)(params, *seen))
    # A barrier and a mean over heads and pixels a layer; the rest is what it was.
    assert told.count("optimization_barrier") - alone.count("optimization_barrier") == len(ORDER)
