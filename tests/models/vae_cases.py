"""Autoencoders, inputs and weights shared by the golden test, the parity test and the generator."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from memjax.models.vae import AutoencoderKL, VAEConfig
from tests.models.drawn import draw

SMALL = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
CONFIGS = {
    # Stable Diffusion's depth, narrow.
    "sd": dataclasses.replace(SMALL, block_out_channels=(16, 16, 32, 32), layers_per_block=2),
    "small": SMALL,
    # What some later checkpoints leave out.
    "plain": dataclasses.replace(
        SMALL,
        in_channels=1,
        out_channels=1,
        latent_channels=6,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_attention=False,
    ),
}
GOLDEN = ("small", "plain")  # the other takes longer to compile


def images(config: VAEConfig, batch: int = 2) -> np.ndarray:
    """Returns images in [-1, 1] that are not square."""
    shape = (batch, 3 * config.downscale, 4 * config.downscale, config.in_channels)
    return np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)


def latents(config: VAEConfig, batch: int = 2) -> np.ndarray:
    shape = (batch, 3, 4, config.latent_channels)
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def template(config: VAEConfig) -> dict:
    """Returns the parameter tree's shapes."""
    return jax.eval_shape(
        AutoencoderKL(config).init, jax.random.key(0), jnp.asarray(images(config))
    )["params"]


def weights(config: VAEConfig) -> dict:
    """Returns the same parameters on every machine."""
    return draw(template(config))
