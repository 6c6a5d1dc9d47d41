"""The autoencoder: golden outputs of diffusers' network, invariances, refusals."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.vae import AutoencoderKL, VAEConfig
from tests.models.vae_cases import CONFIGS, GOLDEN, images, latents, weights

EXPECTED = np.load(pathlib.Path(__file__).parent / "golden_vae.npz")


def apply(config, method):
    module = AutoencoderKL(config)
    return jax.jit(lambda params, x: module.apply({"params": params}, x, method=method))


def error(actual, expected):
    return np.abs(np.asarray(actual) - expected).max() / np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_golden_output_of_diffusers(name):
    config, params = CONFIGS[name], weights(CONFIGS[name])
    moments = apply(config, "encode")(params, images(config))
    decoded = apply(config, "decode")(params, latents(config))
    found = {"mean": moments.mean, "log_var": moments.log_var, "images": decoded}
    for key, actual in found.items():
        expected = EXPECTED[f"{name}_{key}"]
        assert np.abs(expected[0] - expected[1]).max() > 0.1  # the examples are told apart
        # float32 rounding; measured 2e-6
        assert error(actual, expected) < 2e-5, str(EXPECTED["header"])


def test_bfloat16_stays_near_and_keeps_float32_results():
    config, params = CONFIGS["small"], weights(CONFIGS["small"])
    config = dataclasses.replace(config, dtype="bfloat16")
    decoded = apply(config, "decode")(params, latents(config))
    assert decoded.dtype == jnp.float32
    expected = EXPECTED["small_images"]
    # eight bits of mantissa through some twenty layers
    assert 1e-4 < error(decoded, expected) < 0.1


def test_stable_diffusion_sizes():
    """The default is Stable Diffusion's autoencoder: 83,653,863 parameters."""
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(AutoencoderKL(VAEConfig()).init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863
    moments = jax.eval_shape(
        lambda v, x: AutoencoderKL(VAEConfig()).apply(v, x, method="encode"), shapes, x
    )
    assert moments.mean.shape == moments.log_var.shape == (1, 8, 8, 4)
    assert VAEConfig().downscale == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": []}, "block_out_channels is empty"),
        ({"block_out_channels": [32, 40]}, r"block_out_channels\[1\] is 40.*norm_num_groups=32"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**change)


def test_sides_that_cannot_be_halved_are_refused():
    x = jax.ShapeDtypeStruct((1, 64, 60, 3), jnp.float32)
    with pytest.raises(ValueError, match="image side 60 is not divisible by 8"):
        jax.eval_shape(AutoencoderKL(VAEConfig()).init, jax.random.key(0), x)


def test_lists_of_a_settings_file_make_an_equal_recipe():
    config = VAEConfig(block_out_channels=[128, 256, 512, 512])
    assert config == VAEConfig()
    assert hash(config) == hash(VAEConfig())
