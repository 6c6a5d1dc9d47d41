"""The networks `memjax fit` knows: shapes of their weights, no number drawn and no file read."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from memjax.core.types import Params, TokenCond
from memjax.data.labels import chexpert_label_space
from memjax.models.unet import UNet, UNetConfig
from memjax.models.vae import VAEConfig
from memjax.training.fine_tune import training_unet
from memjax.training.network import Network
from memjax.training.run import network_of

# A fine-tuning's network is in its base's files; fit knows Stable Diffusion 1's by heart.
SD_SCALE = VAEConfig().scaling_factor
SD_SAMPLING = {"clip_x0": None, "steps_offset": 1, "set_alpha_to_one": False}
_SD_TOKENS, _SD_FOLD = 77, 8


class Shapes(NamedTuple):
    """Shapes of a network's weights and of one example, and what it is in words."""

    params: Params
    sample_shape: tuple[int, ...]
    words: str


def struct(shape: Sequence[int], dtype: Any, sharding: NamedSharding | None = None) -> Any:
    """Returns the shape of an array, and its place."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Returns shapes with their place; ``shardings`` is one or a tree of them."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda a, s: struct(a.shape, a.dtype, s), tree, shardings)


def key_struct() -> Any:
    """Returns the shape of a typed key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def sd_cond(rows: int) -> TokenCond:
    """Returns the shapes of so many encoded captions."""
    width = UNetConfig().cross_attention_dim
    return TokenCond(
        struct((rows, _SD_TOKENS, width), jnp.float32), struct((rows, _SD_TOKENS), jnp.bool_)
    )


def labelled(config: Mapping[str, Any]) -> tuple[Network, Shapes]:
    """Returns the network of a configuration with labels, for CheXpert's label space.

    Raises:
        ValueError: If a value does not fit, naming it.
    """
    network = network_of(config, chexpert_label_space())
    shape = network.module.sample_shape
    labels = struct((1, len(network.module.label_sizes)), jnp.int32)
    example = struct((1, *shape), jnp.float32), struct((1,), jnp.int32), labels
    params = jax.eval_shape(network.module.init, key_struct(), *example)["params"]
    words = f"the configuration's U-Net in {config['model']['dtype']}, CheXpert's labels"
    return network, Shapes(params, shape, words)


def stable_diffusion(config: Mapping[str, Any]) -> tuple[UNet, Shapes]:
    """Returns the network of a fine-tuning of Stable Diffusion 1, its base's files unread.

    Raises:
        ValueError: If the size of the pictures does not fit.
    """
    unet = training_unet(UNet(UNetConfig()), **config["model"])
    side = config["data"]["size"] // _SD_FOLD
    unet.config.validate(side)
    shape = (side, side, unet.config.in_channels)
    example = struct((1, *shape), jnp.float32), struct((1,), jnp.int32), sd_cond(1)
    params = jax.eval_shape(unet.init, key_struct(), *example)["params"]
    words = f"Stable Diffusion 1's U-Net in {unet.config.dtype} (the base's files are not read)"
    return unet, Shapes(params, shape, words)
