"""The recipes of the networks in a single file, told from the shapes of their weights.

.. note:: Three things cannot be told from shapes and follow the published models: heads (8 in
    Stable Diffusion 1; 64 channels each in 2, which stores its projections as matrices), 32 groups
    in the norms, and heads of 64 channels in the text encoders.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from memjax.interop.stable_diffusion.original_names import TEXT, UNET, VAE, is_open_clip
from memjax.interop.weight_files import Stored
from memjax.models.clip.text import CLIPTextConfig
from memjax.models.unet.network import UNetConfig
from memjax.models.vae import VAEConfig

HEADS, HEAD_WIDTH, GROUPS = 8, 64, 32
Tensors = Mapping[str, Stored]


class _Level(NamedTuple):
    channels: int
    layers: int
    depth: int


class UnknownShapesError(ValueError):
    """The tensors are not those of the network; the text says what was looked for."""


def shape_of(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """Returns a tensor's shape.

    Raises:
        UnknownShapesError: It is missing, empty or has another number of axes.
    """
    tensor = tensors.get(name)
    if tensor is None or len(tensor.shape) != axes or not 0 < max(tensor.shape) <= 10**7:
        raise UnknownShapesError(f"{name} with {axes} axes")
    return tensor.shape


def is_linear(tensors: Tensors) -> bool:
    """Says whether the U-Net's projections are matrices, as in Stable Diffusion 2."""
    pattern = re.compile(re.escape(UNET) + r".*\.proj_in\.weight")
    return any(pattern.fullmatch(name) and len(t.shape) == 2 for name, t in tensors.items())


def unet_recipe(tensors: Tensors, compute: str) -> UNetConfig:
    """Returns the U-Net's recipe.

    Raises:
        UnknownShapesError: The weights are no such U-Net's.
    """
    first = shape_of(tensors, f"{UNET}input_blocks.0.0.weight", 4)
    last = shape_of(tensors, f"{UNET}out.2.weight", 4)
    levels = _unet_levels(tensors)
    if len({level.layers for level in levels}) != 1:
        raise UnknownShapesError("the same number of blocks on every level")
    linear = is_linear(tensors)
    widths = tuple(level.channels for level in levels)
    depths = [level.depth for level in levels if level.depth] or [1]
    config: dict[str, Any] = {
        "in_channels": first[1],
        "out_channels": last[0],
        "block_out_channels": widths,
        "layers_per_block": levels[0].layers,
        "attention_blocks": tuple(level.depth > 0 for level in levels),
        "mid_attention": f"{UNET}middle_block.1.norm.weight" in tensors,
        "num_heads": tuple(max(w // HEAD_WIDTH, 1) for w in widths) if linear else HEADS,
        "transformer_layers": depths[0]
        if len(set(depths)) == 1
        else tuple(max(level.depth, 1) for level in levels),
        "cross_attention_dim": _cross_width(tensors),
        "norm_num_groups": GROUPS,
    }
    return UNetConfig(**config, zero_init_out=False, dtype=compute)


def _unet_levels(tensors: Tensors) -> list[_Level]:
    levels: list[_Level] = []
    layers = channels = depth = 0
    number = 1
    while number < 1000:
        home = f"{UNET}input_blocks.{number}"
        if f"{home}.0.out_layers.3.weight" in tensors:
            channels = shape_of(tensors, f"{home}.0.out_layers.3.weight", 4)[0]
            layers, depth = layers + 1, _depth(tensors, f"{home}.1.")
        elif f"{home}.0.op.weight" in tensors:
            levels.append(_Level(channels, layers, depth))
            layers = 0
        else:
            break
        number += 1
    levels.append(_Level(channels, layers, depth))
    if not all(level.layers and level.channels for level in levels) or len(levels) > 8:
        raise UnknownShapesError(f"{UNET}input_blocks.1.0.out_layers.3.weight and its followers")
    return levels


def _depth(tensors: Tensors, home: str) -> int:
    depth = 0
    while f"{home}transformer_blocks.{depth}.norm1.weight" in tensors and depth < 64:
        depth += 1
    return depth


def _cross_width(tensors: Tensors) -> int:
    pattern = re.compile(re.escape(UNET) + r".*\.attn2\.to_k\.weight")
    widths = {t.shape[1] for name, t in tensors.items() if pattern.fullmatch(name) and t.shape[1:]}
    if len(widths) != 1:
        raise UnknownShapesError("attn2.to_k.weight of one width in all cross attentions")
    return widths.pop()


def vae_recipe(tensors: Tensors, compute: str) -> VAEConfig:
    """Returns the autoencoder's recipe.

    Raises:
        UnknownShapesError: The weights are no such autoencoder's.
    """
    widths: list[int] = []
    layers = 0
    while f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight" in tensors and len(widths) < 8:
        home = f"{VAE}encoder.down.{len(widths)}.block"
        widths.append(shape_of(tensors, f"{home}.0.conv1.weight", 4)[0])
        layers = 0
        while f"{home}.{layers}.conv1.weight" in tensors and layers < 32:
            layers += 1
    latent = shape_of(tensors, f"{VAE}decoder.conv_in.weight", 4)[1]
    if not widths:
        raise UnknownShapesError(f"{VAE}encoder.down.0.block.0.conv1.weight")
    return VAEConfig(
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        latent_channels=latent,
        norm_num_groups=GROUPS,
        use_quant_conv=f"{VAE}quant_conv.weight" in tensors,
        use_post_quant_conv=f"{VAE}post_quant_conv.weight" in tensors,
        mid_attention=f"{VAE}encoder.mid.attn_1.norm.weight" in tensors,
        dtype=compute,
    )


def text_recipe(tensors: Tensors, compute: str) -> CLIPTextConfig:
    """Returns the text encoder's recipe; of open_clip's layers the last is left out.

    Raises:
        UnknownShapesError: The weights are no such text encoder's.
    """
    second = is_open_clip(tensors)
    home = f"{TEXT}model." if second else f"{TEXT}transformer."
    if not second and any(name.startswith(f"{home}text_model.") for name in tensors):
        home += "text_model."
    table = "token_embedding.weight" if second else "embeddings.token_embedding.weight"
    places = "positional_embedding" if second else "embeddings.position_embedding.weight"
    layer = "transformer.resblocks" if second else "encoder.layers"
    hidden = "mlp.c_fc.weight" if second else "mlp.fc1.weight"
    rows, width = shape_of(tensors, home + table, 2)
    pattern = re.compile(re.escape(f"{home}{layer}.") + r"(\d{1,3})\..*")
    numbers = {int(match[1]) for match in map(pattern.fullmatch, tensors) if match}
    layers = len(numbers) - second
    if layers < 1 or width % HEAD_WIDTH:
        raise UnknownShapesError(f"{home}{layer} of a width that is a multiple of {HEAD_WIDTH}")
    config: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": shape_of(tensors, f"{home}{layer}.0.{hidden}", 2)[0],
        "num_layers": layers,
        "num_heads": width // HEAD_WIDTH,
        "max_length": shape_of(tensors, home + places, 2)[0],
        "hidden_act": "gelu" if second else "quick_gelu",
        "eos_token_id": rows - 1,
    }
    return CLIPTextConfig(**config, dtype=compute)
