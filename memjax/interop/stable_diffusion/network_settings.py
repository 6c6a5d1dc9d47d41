"""The settings of a Stable Diffusion folder's networks, as recipes of ours.

Every setting that changes the arithmetic is either supported or refused by name.

References:
    diffusers' ``UNet2DConditionModel`` and ``AutoencoderKL``, transformers' ``CLIPTextConfig``.
"""

from collections.abc import Mapping
from typing import Any

from memjax.interop.fields import Fields, shown
from memjax.models.clip.text import CLIPTextConfig
from memjax.models.unet.network import UNetConfig
from memjax.models.vae import VAEConfig

Settings = Mapping[str, Any]

# Settings with one supported value each (or two that mean the same), the default first.
UNET_FIXED: dict[str, tuple[Any, ...]] = {
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
    *("projection_class_embeddings_input_dim", "upcast_attention"),
    # Left by the averaging of weights in diffusers' training scripts.
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step"),
    "use_ema_warmup",
)
DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
MIDDLE_BLOCKS = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False}
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
    for name, allowed in UNET_FIXED.items():
        fields.choice(name, *allowed)
    fields.choice("use_linear_projection", False, True, None)
    middle = fields.choice("mid_block_type", *MIDDLE_BLOCKS)
    config = {
        "in_channels": fields.whole("in_channels", 4, 65_536),
        "out_channels": fields.whole("out_channels", 4, 65_536),
        "layers_per_block": fields.same("layers_per_block", 2, 32),
        "attention_blocks": _levels(fields, levels),
        "mid_attention": MIDDLE_BLOCKS[middle],
        "num_heads": fields.wholes("attention_head_dim", 8, 65_536, levels),
        "transformer_layers": fields.wholes("transformer_layers_per_block", 1, 64, levels),
        "cross_attention_dim": fields.same("cross_attention_dim", 1280, 65_536),
        "norm_num_groups": fields.whole("norm_num_groups", 32, 65_536),
        "norm_eps": fields.number("norm_eps", 1e-5, 1e-12, 1.0),
    }
    fields.ignore(*_UNET_IGNORED)
    fields.refuse_others()
    distilled = settings.get("time_cond_proj_dim") is not None
    fields.finish(SUPPORTED + distilled * ", not latent consistency models distilled from them")
    config |= {"block_out_channels": widths, "zero_init_out": False, "dtype": compute_dtype(dtype)}
    return _built(UNetConfig, config, where)


def _levels(fields: Fields, levels: int) -> tuple[bool, ...]:
    """Block types → whether each level attends; the way up must mirror the way down."""
    usual = [True] * (levels - 1) + [False]
    names = {flag: name for name, flag in DOWN_BLOCKS.items()}
    down = fields.get("down_block_types", [names[flag] for flag in usual])
    mirrored = {flag: name for name, flag in UP_BLOCKS.items()}
    up = fields.get("up_block_types", [mirrored[flag] for flag in reversed(usual)])
    known = isinstance(down, list) and all(isinstance(d, str) and d in DOWN_BLOCKS for d in down)
    if not known or len(down) != levels:
        fields.problems.append(
            f"down_block_types={shown(down, 200)} (expected {' or '.join(DOWN_BLOCKS)} for each of "
            f"the {levels} levels)"
        )
        return tuple(usual)
    flags = tuple(DOWN_BLOCKS[name] for name in down)
    expected = [mirrored[flag] for flag in reversed(flags)]
    if up != expected:
        fields.problems.append(
            f"up_block_types={shown(up, 200)} (expected {', '.join(expected)}, the mirror of the "
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
                f"{name}_block_types={shown(types, 200)} (expected {len(widths)} {kind})"
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
        CLIP's text model are read, and a quantized model is refused.

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
