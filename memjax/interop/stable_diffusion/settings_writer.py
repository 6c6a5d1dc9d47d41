"""Recipes of the networks as the settings that diffusers and transformers write."""

from collections.abc import Mapping
from typing import Any

from memjax.interop.stable_diffusion.network_settings import (
    DOWN_BLOCKS,
    MIDDLE_BLOCKS,
    UNET_FIXED,
    UP_BLOCKS,
)
from memjax.models.clip.text import CLIPTextConfig
from memjax.models.unet.network import UNetConfig
from memjax.models.vae import VAEConfig


def unet_settings(config: UNetConfig, sample_size: tuple[int, int], linear: bool) -> dict[str, Any]:
    """Returns what diffusers writes into ``unet/config.json`` for a recipe.

    Args:
        config: The recipe.
        sample_size: Height and width of a latent.
        linear: Whether the projections around transformers are stored as matrices.
    """
    down = {flag: name for name, flag in DOWN_BLOCKS.items()}
    up = {flag: name for name, flag in UP_BLOCKS.items()}
    middle = {flag: name for name, flag in MIDDLE_BLOCKS.items()}
    height, width = sample_size
    return {
        "_class_name": "UNet2DConditionModel",
        **{name: allowed[0] for name, allowed in UNET_FIXED.items()},
        "attention_head_dim": _plain(config.num_heads),
        "block_out_channels": list(config.block_out_channels),
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": [down[flag] for flag in config.attention_blocks],
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_type": middle[config.mid_attention],
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "sample_size": height if height == width else [height, width],
        "transformer_layers_per_block": _plain(config.transformer_layers),
        "up_block_types": [up[flag] for flag in reversed(config.attention_blocks)],
        "use_linear_projection": linear,
    }


def vae_settings(config: VAEConfig, sample_size: int) -> dict[str, Any]:
    """Returns what diffusers writes into ``vae/config.json`` for a recipe."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "sample_size": sample_size,
        "scaling_factor": config.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": config.use_post_quant_conv,
        "use_quant_conv": config.use_quant_conv,
    }


def text_settings(config: CLIPTextConfig, special: Mapping[str, int]) -> dict[str, Any]:
    """Returns what transformers writes into ``text_encoder/config.json`` for a recipe.

    Args:
        config: The recipe.
        special: ``bos_token_id`` and ``pad_token_id``.
    """
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        **special,
        "eos_token_id": config.eos_token_id,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_length,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "vocab_size": config.vocab_size,
    }


def _plain(value: int | tuple[int, ...]) -> int | list[int]:
    return value if isinstance(value, int) else list(value)
