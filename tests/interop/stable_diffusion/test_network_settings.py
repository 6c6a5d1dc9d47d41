"""Settings of U-Net, autoencoder and text encoder: supported, or refused by name."""

import dataclasses

import pytest

from memjax.interop.stable_diffusion.network_settings import text_config, unet_config, vae_config
from memjax.interop.stable_diffusion.settings_writer import (
    text_settings,
    unet_settings,
    vae_settings,
)
from memjax.models.clip.text import CLIPTextConfig
from memjax.models.unet.network import UNetConfig
from memjax.models.vae import VAEConfig
from tests.interop.stable_diffusion.pipelines import assert_sentence

# What the published files say, as far as it differs from the defaults there.
SD1 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
SD2 = SD1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
TEXT1 = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
LEVELS = ["DownEncoderBlock2D"] * 4
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": LEVELS,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def test_published_settings_are_the_default_recipes():
    base = UNetConfig(zero_init_out=False)
    assert unet_config(SD1, "f") == base
    heads = {"num_heads": (5, 10, 20, 20), "cross_attention_dim": 1024}
    assert unet_config(SD2, "f") == dataclasses.replace(base, **heads)
    assert vae_config(VAE, "f") == VAEConfig()
    assert text_config(TEXT1, "f") == CLIPTextConfig(eos_token_id=2)
    assert unet_config(SD1, "f", "bfloat16").dtype == "bfloat16"
    assert vae_config(VAE, "f", "float16").dtype == "float32"


UNETS = {
    "demo": UNetConfig(zero_init_out=False),
    "heads": UNetConfig(num_heads=(5, 10, 20, 20), zero_init_out=False),
    "depths": UNetConfig(transformer_layers=(1, 2, 3, 1), zero_init_out=False),
    "plain middle": UNetConfig(mid_attention=False, norm_eps=1e-6, zero_init_out=False),
    "attends below": UNetConfig(attention_blocks=(False, True, False, True), zero_init_out=False),
}


@pytest.mark.parametrize("name", UNETS)
def test_unet_settings_come_back(name):
    settings = unet_settings(UNETS[name], (64, 96), linear=True)
    assert unet_config(settings, "f") == UNETS[name]
    assert settings["sample_size"] == [64, 96]
    assert settings["use_linear_projection"] is True


def test_other_settings_come_back():
    vae = VAEConfig(
        use_quant_conv=False, mid_attention=False, scaling_factor=0.5, latent_channels=8
    )
    assert vae_config(vae_settings(vae, 512), "f") == vae
    text = CLIPTextConfig(hidden_act="gelu", num_layers=23, hidden_size=1024, num_heads=16)
    assert text_config(text_settings(text, {"bos_token_id": 1}), "f") == text


def test_the_same_number_for_every_level_is_one_number():
    settings = SD1 | {"layers_per_block": [2] * 4, "cross_attention_dim": [768] * 4}
    assert unet_config(settings, "f") == unet_config(SD1, "f")


REFUSED = {
    "act_fn": "mish",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads_of_mine": 3,
    "attention_head_dim": [8, 8],
    "block_out_channels": [],
    "center_input_sample": True,
    "class_embed_type": "timestep",
    "conv_in_kernel": 5,
    "cross_attention_dim": [768, 1024],
    "cross_attention_norm": "layer_norm",
    "downsample_padding": 0,
    "dual_cross_attention": True,
    "encoder_hid_dim": 768,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": True,
    "layers_per_block": 10**9,
    "mid_block_scale_factor": 1.5,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_eps": "1e-5",
    "norm_num_groups": None,
    "num_attention_heads": 8,
    "num_class_embeds": 1000,
    "only_cross_attention": True,
    "quantization_config": {"bits": 8},
    "resnet_out_scale_factor": 2.0,
    "resnet_skip_time_act": True,
    "resnet_time_scale_shift": "scale_shift",
    "time_cond_proj_dim": 256,
    "time_embedding_type": "fourier",
    "timestep_post_act": "silu",
    "transformer_layers_per_block": [1, 1],
    "use_linear_projection": "yes",
}


def test_every_unsupported_setting_is_listed_in_one_sentence():
    with pytest.raises(ValueError, match="The file f has ") as caught:
        unet_config(SD1 | REFUSED, "f")
    message = assert_sentence(caught.value)
    for name in REFUSED:
        assert f"{name}=" in message


@pytest.mark.parametrize("name", REFUSED)
def test_each_unsupported_setting_alone(name):
    with pytest.raises(ValueError, match=f"The file f has {name}=") as caught:
        unet_config(SD1 | {name: REFUSED[name]}, "f")
    assert str(caught.value).count("expected") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("down_block_types", ["CrossAttnDownBlock2D"] * 4),
        ("up_block_types", ["CrossAttnUpBlock2D"] * 4),
        ("down_block_types", [["CrossAttnDownBlock2D"]] * 4),
        ("down_block_types", "DownBlock2D"),
        ("up_block_types", ["UpBlock2D", *["SimpleCrossAttnUpBlock2D"] * 3]),
    ],
)
def test_blocks_that_do_not_mirror(name, value):
    with pytest.raises(ValueError, match="_block_types="):
        unet_config(SD1 | {name: value}, "f")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("act_fn", "relu"),
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("in_channels", 4),
        ("latents_mean", [0.1]),
        ("latents_std", [0.1]),
        ("scaling_factor", 0),
        ("shift_factor", 0.1),
        ("use_quant_conv", "no"),
        ("some_future_setting", 1),
    ],
)
def test_unsupported_autoencoders(name, value):
    with pytest.raises(ValueError, match=f"The file f has {name}="):
        vae_config(VAE | {name: value}, "f")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "relu"),
        ("model_type", "t5"),
        ("num_hidden_layers", 10**6),
        ("num_attention_heads", 0),
        ("layer_norm_eps", -1.0),
        ("quantization_config", {"load_in_8bit": True}),
        ("vocab_size", "49408"),
    ],
)
def test_unsupported_text_encoders(name, value):
    with pytest.raises(ValueError, match=f"The file f has {name}="):
        text_config(TEXT1 | {name: value}, "f")


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (unet_config, SD1 | {"norm_num_groups": 33}),
        (unet_config, SD1 | {"attention_head_dim": 7}),
        (vae_config, VAE | {"norm_num_groups": 33}),
        (text_config, TEXT1 | {"num_attention_heads": 7}),
    ],
)
def test_settings_that_contradict_each_other(build, settings):
    with pytest.raises(ValueError, match=r"The file f cannot be right: .*\.$"):
        build(settings, "f")
