"""A pipeline as a single file, in the names of the original repositories, written out by hand."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from safetensors.numpy import save_file

from memjax.interop import tiny_pipeline
from memjax.interop.layout import places
from memjax.interop.stable_diffusion.pipeline import Pipeline

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}

# What cannot be told from shapes is as in the published models: 32 groups, 8 heads or 64 channels
# a head.
UNETS = {
    "sd1": {"block_out_channels": (32, 64), "num_heads": 8, "attention_blocks": (True, False)},
    "sd2": {
        "block_out_channels": (64, 128),
        "num_heads": (1, 2),
        "attention_blocks": (False, True),
    },
}


def published_like(kind: str) -> Pipeline:
    """Returns a tiny pipeline, ``sd1`` or ``sd2``, whose settings can be told from its shapes."""
    shared = {"norm_num_groups": 32, "layers_per_block": 2, "cross_attention_dim": 64}
    return tiny_pipeline(
        kind,
        unet=shared | UNETS[kind],
        vae={"block_out_channels": (32, 64, 64), "norm_num_groups": 32, "layers_per_block": 2},
        text={"num_heads": 1},
        latent_size=8,
    )


def state(params, linear: bool = True) -> dict[str, np.ndarray]:
    """Returns a parameter tree under diffusers' and transformers' keys."""
    leaves = jax.tree.leaves(params)
    pairs = zip(places(params, linear), leaves, strict=True)
    return {place.name: place.to_theirs(np.asarray(leaf)) for place, leaf in pairs}


def original_unet(name: str, layers: int, attends: tuple[bool, ...]) -> str:
    stem, leaf = name.rsplit(".", 1)
    if stem in FIXED:
        return f"{FIXED[stem]}.{leaf}"
    parts = name.split(".")
    if parts[0] == "mid_block":
        slot = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(parts[1:3])]
        return f"middle_block.{slot}.{_inner(parts[1], parts[3:])}"
    level, kind, j, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
    start = level * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.op.{leaf}"
    if kind == "upsamplers":
        slot = 2 if attends[::-1][level] else 1
        return f"output_blocks.{start + layers}.{slot}.conv.{leaf}"
    side, first = ("input", 1) if parts[0] == "down_blocks" else ("output", 0)
    slot = int(kind == "attentions")
    return f"{side}_blocks.{first + start + j}.{slot}.{_inner(kind, rest)}"


def _inner(kind: str, rest: list[str]) -> str:
    return ".".join(rest if kind == "attentions" else [RESNET[rest[0]], *rest[1:]])


def original_vae(name: str, levels: int) -> str:
    parts = name.split(".")
    if name.startswith(("quant", "post")) or parts[1] in ("conv_in", "conv_out"):
        return name
    if parts[1] == "conv_norm_out":
        return f"{parts[0]}.norm_out.{parts[2]}"
    if parts[2] == "resnets" and parts[1] == "mid_block":
        return ".".join([parts[0], "mid", f"block_{int(parts[3]) + 1}", *parts[4:]])
    if parts[1] == "mid_block":
        return f"{parts[0]}.mid.attn_1.{ATTENTION[parts[4]]}.{parts[-1]}"
    down, level = parts[0] == "encoder", int(parts[2])
    home = f"{parts[0]}.{'down' if down else 'up'}.{level if down else levels - 1 - level}"
    if "samplers" in parts[3]:
        return f"{home}.{'down' if down else 'up'}sample.conv.{parts[-1]}"
    rest = ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
    return f"{home}.block.{parts[4]}.{rest}"


def open_clip(text: Mapping[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Returns a text encoder of one layer more, fused in_proj, in open_clip's names."""
    out = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "text_projection": np.eye(4, dtype=np.float32),
        "logit_scale": np.ones((), np.float32),
    }
    for leaf in ("weight", "bias"):
        out[f"ln_final.{leaf}"] = text[f"final_layer_norm.{leaf}"]
        for k in range(layers + 1):
            ours, theirs = f"encoder.layers.{min(k, layers - 1)}", f"transformer.resblocks.{k}"
            fused = [text[f"{ours}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"]
            out[f"{theirs}.attn.in_proj_{leaf}"] = np.concatenate(fused)
            out[f"{theirs}.attn.out_proj.{leaf}"] = text[f"{ours}.self_attn.out_proj.{leaf}"]
            out[f"{theirs}.ln_1.{leaf}"] = text[f"{ours}.layer_norm1.{leaf}"]
            out[f"{theirs}.ln_2.{leaf}"] = text[f"{ours}.layer_norm2.{leaf}"]
            out[f"{theirs}.mlp.c_fc.{leaf}"] = text[f"{ours}.mlp.fc1.{leaf}"]
            out[f"{theirs}.mlp.c_proj.{leaf}"] = text[f"{ours}.mlp.fc2.{leaf}"]
    return out


def original_state(pipeline) -> dict[str, np.ndarray]:
    """Returns all tensors that a single file of the pipeline holds."""
    unet, vae, text = pipeline.unet.config, pipeline.vae.config, pipeline.text.config
    second = bool(pipeline.settings["unet"]["use_linear_projection"])
    out = {"alphas_cumprod": pipeline.spec.build().alphas_bar, "model_ema.decay": np.ones(())}
    for name, array in state(pipeline.unet_params, second).items():
        name = original_unet(name, unet.layers_per_block, unet.attention_blocks)
        out[UNET + name] = array
    for name, array in state(pipeline.vae_params).items():
        name = original_vae(name, len(vae.block_out_channels))
        out[VAE + name] = array[:, :, None, None] if "attn_1" in name and array.ndim == 2 else array
    words = state(pipeline.text_params)
    if second:
        found = open_clip(words, text.num_layers)
        return out | {f"{TEXT}model.{name}": array for name, array in found.items()}
    out[f"{TEXT}transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
    return out | {f"{TEXT}transformer.text_model.{name}": array for name, array in words.items()}


def write(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> pathlib.Path:
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, path, metadata)
    return path
