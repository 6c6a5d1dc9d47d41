"""CLIP configurations as transformers' PyTorch networks, and open_clip's names of their weights."""

import re

import numpy as np
import torch
import transformers
from flax import traverse_util
from transformers import (
    CLIPConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from memjax.models.clip.text import CLIPTextConfig
from memjax.models.clip.vision import CLIPVisionConfig
from tests.parity.diffusers_vae import shaken


def text_settings(config: CLIPTextConfig) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_length,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.norm_eps,
        "eos_token_id": config.eos_token_id,
        "bos_token_id": 0,
        "pad_token_id": 1,
        **({} if config.projection_dim is None else {"projection_dim": config.projection_dim}),
    }


def vision_settings(config: CLIPVisionConfig) -> dict:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.norm_eps,
        "projection_dim": config.projection_dim,
    }


def text_tower(config: CLIPTextConfig, seed: int = 0) -> torch.nn.Module:
    kind = CLIPTextModel if config.projection_dim is None else CLIPTextModelWithProjection
    torch.manual_seed(seed)
    return shaken(kind(transformers.CLIPTextConfig(**text_settings(config))), seed)


def vision_tower(config: CLIPVisionConfig, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = transformers.CLIPVisionConfig(**vision_settings(config))
    return shaken(CLIPVisionModelWithProjection(settings), seed)


def whole(text: CLIPTextConfig, vision: CLIPVisionConfig, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = CLIPConfig(
        text_config=text_settings(text),
        vision_config=vision_settings(vision),
        projection_dim=vision.projection_dim,
    )
    return shaken(transformers.CLIPModel(settings), seed)


def clip_state(params: dict) -> dict[str, np.ndarray]:
    """One of our towers' parameters → transformers' state dict of that tower alone."""
    state = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        leaves = {"kernel": ".weight", "scale": ".weight", "embedding": ".weight", "bias": ".bias"}
        name = ".".join(path[:-1]) + leaves.get(path[-1], path[-1])
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim) if path[-1] == "kernel" else None
        state[name] = leaf if axes is None else leaf.transpose(axes)
    return {key: np.ascontiguousarray(value) for key, value in state.items()}


_NAMES = (
    (r"^text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def open_clip_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' state dict of the whole model → open_clip's."""
    out: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if key in ("text_projection.weight", "visual_projection.weight"):
            name = "text_projection" if key.startswith("text") else "visual.proj"
            out[name] = value.T
            continue
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        out[key] = value
    for key in [key for key in out if ".attn.q_proj." in key]:
        parts = [out.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        out[key.replace("q_proj.", "in_proj_")] = np.concatenate(parts)
    return {key: np.ascontiguousarray(value) for key, value in out.items()}
