"""The settings of a Stable Diffusion folder's networks, as recipes of ours and back.

Every setting that changes the arithmetic is either supported or refused by name.

References:
    diffusers' ``UNet2DConditionModel`` and ``AutoencoderKL``, transformers' ``CLIPTextConfig``.
"""

from collections.abc import Mapping
from typing import Any

from memjax.interop.fields import Fields
from memjax.models.clip_text import CLIPTextConfig
from memjax.models.unet import UNetConfig
from memjax.models.vae import VAEConfig

Settings = Mapping[str, Any]

# Settings with one supported value each (or two that mean the same), the default first.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_UNET_IGNORED = (
    *("addition_embed_type_num_heads", "addition_time_embed_dim", "dropout", "sample_size"),
    *("projection_class_embeddings_input_dim", "upcast_attention", "use_linear_projection"),
)
_DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
_MIDDLE = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False}
SUPPORTED = "the networks of Stable Diffusion 1 and 2"


def compute_dtype(dtype: str) -> str:
    """Networks compute in float32 or bfloat16; float16 weights are computed with in float32."""
    return "bfloat16" if dtype == "bfloat16" else "float32"


def unet_config(settings: Settings, where: str, dtype: str = "float32") -> UNetConfig:
    """Returns the recipe of a U-Net.

    .. note:: diffusers' ``attention_head_dim`` is the number of heads, not their width.

    Raises:
        ValueError: Lists every setting that is not supported.
    """
    fields = Fields(settings, where)
    widths = fields.widths("block_out_channels", (320, 640, 1280, 1280))
    levels = len(widths)
    for name, allowed in _UNET_FIXED.items():
        fields.choice(name, *allowed)
    middle = fields.choice("mid_block_type", *_MIDDLE)
    config = {
        "in_channels": fields.whole("in_channels", 4, 65_536),
        "out_channels": fields.whole("out_channels", 4, 65_536),
        "layers_per_block": fields.same("layers_per_block", 2, 32),
        "attention_blocks": _levels(fields, levels),
        "mid_attention": _MIDDLE[middle],
        "num_heads": fields.wholes("attention_head_dim", 8, 65_536, levels),
        "transformer_layers": fields.wholes("transformer_layers_per_block", 1, 64, levels),
        "cross_attention_dim": fields.same("cross_attention_dim", 1280, 65_536),
        "norm_num_groups": fields.whole("norm_num_groups", 32, 65_536),
        "norm_eps": fields.number("norm_eps", 1e-5, 1e-12, 1.0),
    }
    fields.ignore(*_UNET_IGNORED)
    fields.refuse_others()
    fields.finish(SUPPORTED)
    config |= {"block_out_channels": widths, "zero_init_out": False, "dtype": compute_dtype(dtype)}
    return _built(UNetConfig, config, where)


def _levels(fields: Fields, levels: int) -> tuple[bool, ...]:
    """Block types → whether each level attends; the way up must mirror the way down."""
    usual = [True] * (levels - 1) + [False]
    names = {flag: name for name, flag in _DOWN.items()}
    down = fields.get("down_block_types", [names[flag] for flag in usual])
    mirrored = {flag: name for name, flag in _UP.items()}
    up = fields.get("up_block_types", [mirrored[flag] for flag in reversed(usual)])
    known = isinstance(down, list) and all(isinstance(d, str) and d in _DOWN for d in down)
    if not known or len(down) != levels:
        fields.problems.append(
            f"down_block_types={str(down)[:200]!r} (expected one of {', '.join(_DOWN)} for each of "
            f"the {levels} levels)"
        )
        return tuple(usual)
    flags = tuple(_DOWN[name] for name in down)
    expected = [mirrored[flag] for flag in reversed(flags)]
    if up != expected:
        fields.problems.append(
            f"up_block_types={str(up)[:200]!r} (expected {', '.join(expected)}, the mirror of the "
            "way down)"
        )
    return flags


def vae_config(settings: Settings, where: str, dtype: str = "float32") -> VAEConfig:
    """Returns the recipe of an autoencoder.

    Raises:
        ValueError: Lists every setting that is not supported.
    """
    fields = Fields(settings, where)
    widths = fields.widths("block_out_channels", (64,))
    for name, kind in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
        types = fields.get(f"{name}_block_types", [kind])
        if types != [kind] * len(widths):
            fields.problems.append(
                f"{name}_block_types={str(types)[:200]!r} (expected {len(widths)} {kind})"
            )
    fields.choice("act_fn", "silu", "swish")
    for name in ("latents_mean", "latents_std"):
        fields.choice(name, None)
    fields.choice("shift_factor", None, 0.0)
    config = {
        "in_channels": fields.whole("in_channels", 3, 3, 3),
        "out_channels": fields.whole("out_channels", 3, 3, 3),
        "block_out_channels": widths,
        "layers_per_block": fields.whole("layers_per_block", 1, 32),
        "latent_channels": fields.whole("latent_channels", 4, 4096),
        "norm_num_groups": fields.whole("norm_num_groups", 32, 65_536),
        "scaling_factor": fields.number("scaling_factor", 0.18215, 1e-6, 1e6),
        "use_quant_conv": fields.choice("use_quant_conv", True, False),
        "use_post_quant_conv": fields.choice("use_post_quant_conv", True, False),
        "mid_attention": fields.choice("mid_block_add_attention", True, False),
    }
    fields.ignore("sample_size", "force_upcast")
    fields.refuse_others()
    fields.finish(SUPPORTED)
    return _built(VAEConfig, config | {"dtype": compute_dtype(dtype)}, where)


def text_config(settings: Settings, where: str, dtype: str = "float32") -> CLIPTextConfig:
    """Returns the recipe of a text encoder.

    .. note:: transformers writes many settings that say nothing about the network; only those of
        CLIP's text model are read, and a quantised model is refused.

    Raises:
        ValueError: Lists every setting that is not supported.
    """
    fields = Fields(settings, where)
    fields.choice("model_type", "clip_text_model")
    fields.choice("quantization_config", None)
    fields.choice("add_cross_attention", False)
    config = {
        "vocab_size": fields.whole("vocab_size", 49408, 10**7),
        "hidden_size": fields.whole("hidden_size", 512, 65_536),
        "intermediate_size": fields.whole("intermediate_size", 2048, 10**6),
        "num_layers": fields.whole("num_hidden_layers", 12, 256),
        "num_heads": fields.whole("num_attention_heads", 8, 65_536),
        "max_length": fields.whole("max_position_embeddings", 77, 10**5),
        "hidden_act": fields.choice("hidden_act", "quick_gelu", "gelu"),
        "norm_eps": fields.number("layer_norm_eps", 1e-5, 1e-12, 1.0),
        "eos_token_id": fields.whole("eos_token_id", 49407, 10**7, 0),
    }
    fields.finish("the text encoders of Stable Diffusion 1 and 2")
    return _built(CLIPTextConfig, config | {"dtype": compute_dtype(dtype)}, where)


def _built(kind: Any, config: dict[str, Any], where: str) -> Any:
    try:
        return kind(**config)
    except ValueError as error:
        raise ValueError(f"The file {where} cannot be right: {error}") from error


def unet_settings(config: UNetConfig, sample_size: tuple[int, int], linear: bool) -> dict[str, Any]:
    """Returns what diffusers writes into ``unet/config.json`` for a recipe.

    Args:
        config: The recipe.
        sample_size: Height and width of a latent.
        linear: Whether the projections around transformers are stored as matrices.
    """
    down = {flag: name for name, flag in _DOWN.items()}
    up = {flag: name for name, flag in _UP.items()}
    middle = {flag: name for name, flag in _MIDDLE.items()}
    height, width = sample_size
    return {
        "_class_name": "UNet2DConditionModel",
        **{name: allowed[0] for name, allowed in _UNET_FIXED.items()},
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
