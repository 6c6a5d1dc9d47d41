"""Networks, inputs and weights shared by the golden test, the parity test and the generator."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util

from memjax.core.types import TokenCond
from memjax.models.unet.network import UNet, UNetConfig

SMALL = UNetConfig(
    block_out_channels=(32, 64),
    attention_blocks=(True, False),
    num_heads=4,
    cross_attention_dim=24,
    norm_num_groups=8,
)
CONFIGS = {
    # Stable Diffusion 1: one number of heads, 1×1 convolutions around the transformer.
    "sd1": dataclasses.replace(
        SMALL,
        block_out_channels=(32, 64, 64, 64),
        attention_blocks=(True, True, True, False),
        num_heads=8,
    ),
    # Stable Diffusion 2: heads a level, linear projections around the transformer.
    "sd2": dataclasses.replace(SMALL, num_heads=(2, 4), transformer_layers=(2, 1)),
    "demo": UNetConfig(
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_blocks=(False, True),
        num_heads=4,
        cross_attention_dim=24,
        pooled_condition=True,
        patch_size=2,
    ),
    "no_attention": dataclasses.replace(
        SMALL, attention_blocks=(False, False), mid_attention=False, norm_eps=1e-6
    ),
}
GOLDEN = ("sd2", "demo")  # the others take longer to compile


def inputs(config: UNetConfig, batch: int = 3) -> tuple[np.ndarray, np.ndarray, TokenCond]:
    """Returns ``(x, t, cond)`` with padded tokens in two of three rows."""
    rng = np.random.RandomState(0)  # whose stream is frozen for good, unlike Generator's
    size = 4 * config.size_multiple
    x = rng.standard_normal((batch, size, size, config.in_channels)).astype(np.float32)
    tokens = rng.standard_normal((batch, 7, config.cross_attention_dim)).astype(np.float32)
    mask = np.arange(7)[None, :] < np.array([7, 4, 1])[:batch, None]
    return x, np.array([0, 417, 999], np.int32)[:batch], TokenCond(tokens, mask)


def template(config: UNetConfig) -> dict:
    """Returns the parameter tree's shapes."""
    init = UNet(config).init
    return jax.eval_shape(init, jax.random.key(0), *inputs(config))["params"]


def weights(config: UNetConfig) -> dict:
    """Returns the same parameters on every machine: uniform, scaled by fan-in."""
    rng = np.random.RandomState(1)
    filled = {}
    for path, leaf in sorted(traverse_util.flatten_dict(template(config)).items()):
        draw = rng.uniform(-1, 1, leaf.shape)
        if path[-1] == "kernel":
            draw *= np.sqrt(3 / np.prod(leaf.shape[:-1]))
        else:
            draw = 0.2 * draw + (path[-1] == "scale")
        filled[path] = draw.astype(np.float32)
    return traverse_util.unflatten_dict(filled)
