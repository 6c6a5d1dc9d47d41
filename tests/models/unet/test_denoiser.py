"""The labeled denoiser and the classifier: halves agree, sizes are refused, loss goes down."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.adapters import LinenEps
from memjax.models.classifier import FindingClassifier
from memjax.models.unet.conditioning import null_labels
from memjax.models.unet.denoiser import Denoiser
from tests.models.unet.test_unet import TINY


@pytest.fixture(scope="module")
def denoiser():
    config = dataclasses.replace(TINY, block_out_channels=(8, 8))
    net = Denoiser(config, label_sizes=(3, 4), image_size=8)
    return net, net.init_params(jax.random.key(0))


def batch(size=5):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, 3, (size, 2)).astype(np.int32)
    return x, np.arange(size) * 200, labels


def test_halves_make_the_whole(denoiser):
    net, params = denoiser
    x, t, labels = batch()
    cond = net.apply({"params": params}, labels, method="encode")
    whole = jax.jit(net.apply)({"params": params}, x, t, labels)
    halves = jax.jit(LinenEps(net, "denoise"))(params, x, t, cond)
    np.testing.assert_allclose(halves, whole, atol=1e-5)
    assert whole.shape == x.shape == (5, *net.sample_shape)


def test_labels_matter_and_null_is_another_condition(denoiser):
    net, params = denoiser
    x, t, labels = batch()
    apply = jax.jit(lambda labels: net.apply({"params": params}, x, t, labels))
    null = np.repeat(null_labels(2), 5, axis=0)
    assert np.abs(apply(labels + 1) - apply(null)).max() > 1e-4


def test_refuses_image_sizes_at_construction():
    with pytest.raises(ValueError, match="image size 30 is not divisible by 4"):
        Denoiser(TINY, label_sizes=(3,), image_size=30)
    with pytest.raises(ValueError, match="label_sizes is empty"):
        Denoiser(TINY, label_sizes=(), image_size=32)


def test_hashes_by_value(denoiser):
    net, _ = denoiser
    twin = Denoiser(net.unet, label_sizes=[3, 4], image_size=8)
    assert LinenEps(net, "denoise") == LinenEps(twin, "denoise")
    assert hash(LinenEps(net, "denoise")) == hash(LinenEps(twin, "denoise"))


def descend(loss, params, steps, rate):
    """Plain gradient descent; returns the losses."""

    @jax.jit
    def step(p):
        value, gradient = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda a, g: a - rate * g, p, gradient), value

    values = []
    for _ in range(steps):
        params, value = step(params)
        values.append(float(value))
    return values


def test_loss_goes_down(denoiser):
    net, params = denoiser
    x, t, labels = batch()
    target = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def loss(p):
        return jnp.mean((net.apply({"params": p}, x, t, labels) - target) ** 2)

    losses = descend(loss, params, steps=60, rate=0.1)
    assert losses[-1] < 0.5 * losses[0]


def test_classifier_learns_brightness_and_is_linear_in_its_features():
    net = FindingClassifier(num_outputs=2, width=8)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (32, 2)).astype(np.float32)
    x = 0.3 * rng.standard_normal((32, 16, 16, 1)).astype(np.float32)
    x[:, :8] += truth[:, None, None, :1]
    x[:, 8:] *= 1 + 2 * truth[:, None, None, 1:]
    params = net.init_params(jax.random.key(0), image_size=16)

    def loss(p):
        logits = net.apply({"params": p}, x)
        return jnp.mean(jax.nn.softplus(logits) - truth * logits)

    losses = descend(loss, params, steps=60, rate=0.3)
    assert losses[-1] < 0.3 * losses[0]
    features = net.apply({"params": params}, x, method="features")
    assert features.shape == (32, 64)
    head = params["head"]
    logits = net.apply({"params": params}, x)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, atol=1e-5)
