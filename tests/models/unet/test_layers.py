"""Layers against NumPy in float64 and against their plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from memjax.core.types import TokenCond
from memjax.models.unet.attention import Attention, FeedForward, gelu
from memjax.models.unet.layers import (
    Conv,
    Dense,
    GroupNorm,
    PlaneConv,
    UpsampleConv,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "features"), [(2, 8), (8, 3), (8, 1)])
def test_a_convolution_of_planes_is_a_convolution(rng, channels, features):
    """Shifted before the product or after it; values and gradients."""
    x = rng.standard_normal((2, 6, 5, channels)).astype(np.float32)
    g = rng.standard_normal((2, 6, 5, features)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, channels, features)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.arange(features, dtype=np.float32)}

    def planes(params, x):
        y = PlaneConv(features).apply({"params": params}, jnp.moveaxis(x, -1, 0))
        return jnp.moveaxis(y, 0, -1)

    def plain(params, x):
        return Conv(features).apply({"params": params}, x)

    actual, expected = (jax.vjp(f, params, x) for f in (planes, plain))
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), actual[1](g), expected[1](g)
    )


def test_timestep_embedding_is_cosine_first():
    t = np.array([0, 3, 999])
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    angles = t[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(timestep_embedding(t, 8), expected, atol=2e-4)  # cos(999) in float32


def test_space_to_depth_order_and_inverse(rng):
    x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
    y = np.asarray(space_to_depth(jnp.asarray(x), 2))
    assert y.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(y[1, 1, 2, 6:9], x[1, 3, 4])  # row 1, column 0 of the square
    np.testing.assert_array_equal(depth_to_space(jnp.asarray(y), 2), x)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_group_norm(rng, offset):
    x = (rng.standard_normal((2, 5, 3, 12)) * 2 + offset).astype(np.float32)
    scale, bias = rng.standard_normal((2, 12)).astype(np.float32)
    actual = GroupNorm(4).apply({"params": {"scale": scale, "bias": bias}}, x)
    groups = x.astype(np.float64).reshape(2, 15, 4, 3)
    mean = groups.mean((1, 3), keepdims=True)
    variance = groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias
    np.testing.assert_allclose(actual, expected, atol=2e-5 * (1 + offset))


def test_group_norm_of_a_constant_image_is_its_bias():
    params = {"scale": np.ones(8, np.float32), "bias": np.arange(8, dtype=np.float32)}
    actual = GroupNorm(2).apply({"params": params}, jnp.full((1, 4, 4, 8), 3.0))
    np.testing.assert_allclose(actual[0, 0, 0], np.arange(8), atol=1e-4)


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (3, 1), (3, 2)])
def test_conv(rng, kernel_size, strides):
    x = rng.standard_normal((1, 6, 6, 2)).astype(np.float32)
    kernel = rng.standard_normal((kernel_size, kernel_size, 2, 5)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.arange(5, dtype=np.float32)}
    actual = Conv(5, kernel_size, strides).apply({"params": params}, x)
    pad = kernel_size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    rows = range(0, 6, strides)
    windows = [[padded[0, i : i + kernel_size, j : j + kernel_size] for j in rows] for i in rows]
    expected = np.einsum("ijklc,klco->ijo", np.array(windows), kernel) + np.arange(5)
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)


def test_upsample_conv_equals_repeating_then_convolving(rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4, 6)).astype(np.float32)
    params = {"params": {"kernel": kernel, "bias": rng.standard_normal(6).astype(np.float32)}}
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    expected = Conv(6).apply(params, doubled)
    np.testing.assert_allclose(UpsampleConv(6).apply(params, x), expected, atol=2e-5)

    def gradients(apply):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(apply(p, x))), argnums=(0, 1)))(
            params, x
        )

    def plain(p, x):
        return Conv(6).apply(p, jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    ours, theirs = gradients(UpsampleConv(6).apply), gradients(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_cross_attention(rng):
    x = rng.standard_normal((2, 5, 8))
    cond = TokenCond(rng.standard_normal((2, 3, 6)), np.array([[1, 1, 1], [1, 0, 1]], bool))
    module = Attention(num_heads=2)
    params = module.init(jax.random.key(0), *map(np.float32, (x, cond.embeddings)))["params"]
    actual = module.apply({"params": params}, *map(np.float32, (x, cond.embeddings)), cond.mask)
    w = {name: np.asarray(params[name]["kernel"], np.float64) for name in params}

    def heads(y):
        return y.reshape(2, -1, 2, 4).transpose(0, 2, 1, 3)

    q, k = heads(x @ w["to_q"]), heads(cond.embeddings @ w["to_k"])
    v = heads(cond.embeddings @ w["to_v"])
    logits = q @ k.transpose(0, 1, 3, 2) / 2.0  # √4 channels a head
    logits = np.where(cond.mask[:, None, None, :], logits, -np.inf)
    y = (softmax(logits) @ v).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    np.testing.assert_allclose(actual, y @ w["to_out_0"], atol=1e-5)


def test_gelu_and_its_gradient():
    x = np.linspace(-9, 9, 201)
    phi = (1 + erf(x / np.sqrt(2))) / 2
    np.testing.assert_allclose(gelu(np.float32(x)), x * phi, atol=2e-6)
    slope = jax.vmap(jax.grad(gelu))(np.float32(x))
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slope, phi + x * density, atol=2e-6)


def test_dense_keeps_leading_axes(rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    kernel, bias = rng.standard_normal((4, 6)).astype(np.float32), np.arange(6, dtype=np.float32)
    actual = Dense(6).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(actual, x.astype(np.float64) @ kernel + bias, atol=1e-5)
    plain = Dense(6, use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(plain, actual - bias[None, None, None], atol=1e-5)


def test_feed_forward_is_geglu(rng):
    x = rng.standard_normal((1, 3, 4))
    params = FeedForward().init(jax.random.key(1), np.float32(x))["params"]
    actual = FeedForward().apply({"params": params}, np.float32(x))
    h = x @ np.asarray(params["net_0_proj"]["kernel"], np.float64)
    gate = h[..., 16:]
    expected = h[..., :16] * gate * (1 + erf(gate / np.sqrt(2))) / 2
    expected = expected @ np.asarray(params["net_2"]["kernel"], np.float64)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
