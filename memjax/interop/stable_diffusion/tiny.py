"""A random pipeline of Stable Diffusion's layout, small enough for tests and notebooks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from memjax.core.types import Params
from memjax.interop.clip.tiny_tokenizer import EOS_TOKEN, WORDS, tiny_tokenizer
from memjax.interop.fill import check_dtype
from memjax.interop.stable_diffusion.folder import model_index
from memjax.interop.stable_diffusion.network_settings import compute_dtype
from memjax.interop.stable_diffusion.pipeline import Networks, Pipeline, assemble, check_parts
from memjax.interop.stable_diffusion.scheduler_settings import SPEC, scheduler_settings, scheduling
from memjax.interop.stable_diffusion.settings_writer import (
    text_settings,
    unet_settings,
    vae_settings,
)
from memjax.models.clip.text import CLIPText, CLIPTextConfig
from memjax.models.initial import draw_params
from memjax.models.unet.network import UNet, UNetConfig
from memjax.models.vae import AutoencoderKL, VAEConfig

_UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_blocks=(True, False),
    num_heads=4,
    cross_attention_dim=32,
    norm_num_groups=16,
    zero_init_out=False,
)
_VAE = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
_TEXT = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4)


def tiny_pipeline(
    kind: Literal["sd1", "sd2"],
    *,
    seed: int = 0,
    latent_size: int = 16,
    dtype: str = "float32",
    words: Sequence[str] = WORDS,
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Returns a pipeline of random weights: 16 × 16 × 4 latents of 32 × 32 images.

    Args:
        kind: ``sd1``: predicts ε, convolutional projections, quick_gelu, pads with the end token.
            ``sd2``: predicts v, matrices as projections, heads by level, gelu, pads with ``"!"``.
        seed: Decides the weights.
        latent_size: Side of a latent.
        dtype: Of the parameters.
        words: Words that the tokenizer writes as one token; anything else is written in bytes.
        unet: Changes to the U-Net's :class:`memjax.models.unet.network.UNetConfig`, by field.
        vae: Changes to the autoencoder's recipe.
        text: Changes to the text encoder's recipe; its width is the U-Net's
            ``cross_attention_dim``, and the tokenizer's prompts have its ``max_length``.

    Raises:
        ValueError: ``kind`` is another, or the changes do not fit each other.
    """
    if kind not in ("sd1", "sd2"):
        raise ValueError(f"kind is {kind!r}, expected 'sd1' or 'sd2'.")
    check_dtype(dtype)
    second = kind == "sd2"
    length = (text or {}).get("max_length", _TEXT.max_length)
    tokenizer = tiny_tokenizer(words, pad_token="!" if second else EOS_TOKEN, max_length=length)
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": len(tokenizer) - 1}
    networks = _networks(second, compute_dtype(dtype), sizes, unet or {}, vae or {}, text or {})
    check_parts(networks, tokenizer, "tiny_pipeline")
    networks.unet.config.validate(latent_size)
    params = _draw(networks, seed, dtype)
    settings = _settings(networks, second, latent_size)
    settings["text_encoder"] = text_settings(networks.text.config, tokenizer.special_ids)
    schedule = scheduling(settings["scheduler"], "tiny_pipeline")
    info = {"kind": "tiny", "model": f"tiny_pipeline({kind!r}, seed={seed})", "dtype": dtype}
    size = (latent_size, latent_size)
    return assemble(networks, params, tokenizer, schedule, size, settings, info)


def _networks(
    second: bool,
    compute: str,
    sizes: Mapping[str, int],
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text: Mapping[str, Any],
) -> Networks:
    base = dataclasses.replace(_UNET, num_heads=(2, 4)) if second else _UNET
    unet_config = dataclasses.replace(base, dtype=compute, **unet)
    changes = {"hidden_size": unet_config.cross_attention_dim, "dtype": compute, **sizes, **text}
    if second:
        changes = {"hidden_act": "gelu", **changes}
    return Networks(
        UNet(unet_config),
        AutoencoderKL(dataclasses.replace(_VAE, dtype=compute, **vae)),
        CLIPText(dataclasses.replace(_TEXT, **changes)),
    )


def _draw(networks: Networks, seed: int, dtype: str) -> dict[str, Params]:
    keys = jax.random.split(jax.random.key(seed), 3)
    drawn = {
        name: draw_params(module, key, *inputs)
        for key, (name, (module, inputs)) in zip(
            keys, networks.example_inputs().items(), strict=True
        )
    }
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), drawn)


def _settings(networks: Networks, second: bool, latent_size: int) -> dict[str, dict[str, Any]]:
    unet, vae = networks.unet.config, networks.vae.config
    return {
        "model_index": model_index({}),
        "unet": unet_settings(unet, (latent_size, latent_size), linear=second),
        "vae": vae_settings(vae, latent_size * vae.downscale),
        "scheduler": scheduler_settings(SPEC, "v" if second else "eps"),
    }
