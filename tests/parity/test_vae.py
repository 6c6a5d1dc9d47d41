"""The autoencoder against diffusers' ``AutoencoderKL``, float32, random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.vae import AutoencoderKL
from tests.models.vae_cases import CONFIGS, images, latents, template
from tests.parity.torch_weights import flax_params

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
# torch and diffusers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
TOLERANCE = 1e-4  # float32 rounding through some forty layers; measured 3e-6 to 2e-5


def build(name: str, seed: int = 0):
    """Returns the PyTorch network with fresh weights and those weights as a Flax tree."""
    from tests.parity.diffusers_vae import diffusers_vae, shaken

    net = shaken(diffusers_vae(CONFIGS[name]), seed)
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    return net, flax_params(state, template(CONFIGS[name]))


def nchw(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def relative(actual, expected) -> float:
    expected = np.asarray(expected)
    assert expected.std(axis=0).max() > 1e-3  # the examples are told apart
    return float(np.abs(np.asarray(actual) - expected).max() / np.sqrt(np.mean(expected**2)))


@pytest.mark.parametrize("name", CONFIGS)
def test_encode_equals_diffusers(name):
    net, params = build(name)
    x = images(CONFIGS[name])
    with torch.no_grad():
        expected = net.encode(nchw(x)).latent_dist
    module = AutoencoderKL(CONFIGS[name])
    actual = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode"))(params, x)
    assert relative(actual.mean, expected.mean.permute(0, 2, 3, 1)) < TOLERANCE
    assert relative(actual.log_var, expected.logvar.permute(0, 2, 3, 1)) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_equals_diffusers(name):
    net, params = build(name)
    z = latents(CONFIGS[name])
    with torch.no_grad():
        expected = net.decode(nchw(z)).sample.permute(0, 2, 3, 1)
    module = AutoencoderKL(CONFIGS[name])
    actual = jax.jit(lambda p, z: module.apply({"params": p}, z, method="decode"))(params, z)
    assert relative(actual, expected) < TOLERANCE


def test_large_log_variances_are_clipped_as_in_diffusers():
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    net, params = build("plain")
    params["encoder"]["conv_out"]["kernel"] = 1e3 * params["encoder"]["conv_out"]["kernel"]
    x = images(CONFIGS["plain"])
    module = AutoencoderKL(CONFIGS["plain"])
    log_var = module.apply({"params": params}, x, method="encode").log_var
    with torch.no_grad():
        net.encoder.conv_out.weight.mul_(1e3)
        moments = net.encoder(nchw(x))
    expected = DiagonalGaussianDistribution(moments).logvar.permute(0, 2, 3, 1).numpy()
    assert (expected.min(), expected.max()) == (-30, 20)
    assert (jnp.min(log_var), jnp.max(log_var)) == (-30, 20)
    inside = (expected > -30) & (expected < 20)
    np.testing.assert_allclose(log_var[inside], expected[inside], atol=1e-2)
