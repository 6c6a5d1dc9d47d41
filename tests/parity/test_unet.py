"""The U-Net against diffusers' ``UNet2DConditionModel``, float32, random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.unet.layers import depth_to_space
from memjax.models.unet.network import UNet
from tests.models.unet.unet_cases import CONFIGS, inputs, template
from tests.parity.torch_weights import flax_params

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
# torch and diffusers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def build(name: str, seed: int):
    """Returns the PyTorch network with fresh weights and those weights as a Flax tree."""
    from tests.parity.diffusers_unet import diffusers_unet

    torch.manual_seed(seed)
    net = diffusers_unet(CONFIGS[name], linear=name == "sd2")
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    return net, flax_params(state, template(CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_equals_diffusers(name):
    from tests.parity.diffusers_unet import run_torch

    config = CONFIGS[name]
    net, params = build(name, seed=0)
    x, t, cond = inputs(config)
    with torch.no_grad():
        expected = run_torch(net, config, x, t, cond).permute(0, 2, 3, 1).numpy()
    expected = np.asarray(depth_to_space(jnp.asarray(expected), config.patch_size))
    actual = np.asarray(jax.jit(UNet(config).apply)({"params": params}, x, t, cond))
    error = np.abs(actual - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < 2e-5  # measured 3e-6 to 4e-6: float32 rounding through some fifty layers


@pytest.mark.parametrize("name", ["sd2", "demo"])
def test_gradient_equals_diffusers(name):
    from tests.parity.diffusers_unet import run_torch

    config = CONFIGS[name]
    net, params = build(name, seed=1)
    x, t, cond = inputs(config)
    run_torch(net, config, x, t, cond).square().mean().backward()
    grads = {key: value.grad.numpy() for key, value in net.named_parameters()}
    expected = jax.tree.leaves(flax_params(grads, params))

    def loss(p):
        return jnp.mean(UNet(config).apply({"params": p}, x, t, cond) ** 2)

    actual = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    difference = np.sqrt(sum(np.sum((a - e) ** 2) for a, e in zip(actual, expected, strict=True)))
    error = difference / np.sqrt(sum(np.sum(e**2) for e in expected))
    assert error < 1e-4  # measured 3e-6
