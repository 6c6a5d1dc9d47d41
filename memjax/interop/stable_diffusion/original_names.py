"""Names in the original repositories' single files → names as diffusers and transformers have them.

References:
    The key layouts of CompVis/latent-diffusion (U-Net and autoencoder) and of open_clip (the text
    encoder of Stable Diffusion 2).
"""

import re
from collections.abc import Iterable, Mapping

from memjax.interop.fill import Entry

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
EMA = "model_ema."
_CLIP, _OPEN_CLIP = f"{TEXT}transformer.", f"{TEXT}model."
# What a training run leaves in such a file: its schedule, its loss network, averaged weights; and
# marks without values that other programs set.
_IGNORED = re.compile(
    r"model_ema\..*|first_stage_model\.(loss|model_ema)\..*|"
    r"(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|sqrt_recipm?1?_alphas_cumprod|"
    r"betas|v_pred|ztsnr|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|"
    r"cond_stage_model\.(transformer\.|model\.)?(logit_scale|attn_mask|text_projection(\.weight)?)|"
    r"cond_stage_model\..*position_ids|"
    r"cond_stage_model\.transformer\.(vision_model\..*|visual_projection\.weight)"
)
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_FIXED = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def is_ignored(name: str) -> bool:
    """Says whether a tensor is left out of the three networks."""
    return _IGNORED.fullmatch(name) is not None


def averaged_name(name: str) -> str:
    """Returns the name of the averaged weights that belong to a tensor of the U-Net."""
    return EMA + name.removeprefix("model.").replace(".", "")


def unet_name(name: str, layers: int) -> str | None:
    """Returns the U-Net's name of a tensor (its prefix cut off), or None where it has none.

    Args:
        name: For example ``input_blocks.4.1.proj_in.weight``.
        layers: ResNet blocks a level on the way down.
    """
    head, leaf = name.rsplit(".", 1) if "." in name else ("", name)
    if head in _FIXED:
        return f"{_FIXED[head]}.{leaf}"
    block = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d{1,4})\.(.+)", name)
    if block is None:
        return None
    number, rest = int(block[2]), block[3]
    if block[1] == "middle_block":
        kind = "attentions.0" if number == 1 else f"resnets.{number // 2}"
        return f"mid_block.{kind}.{_inner(rest, number == 1)}" if number < 3 else None
    return _numbered(block[1] == "input_blocks", number, rest, layers)


def _numbered(down: bool, number: int, rest: str, layers: int) -> str | None:
    level, j = divmod(number - 1 if down else number, layers + 1)
    side = f"{'down' if down else 'up'}_blocks.{level}"
    slot, _, inner = rest.partition(".")
    if down and slot == "0" and inner.startswith("op."):
        return f"{side}.downsamplers.0.conv.{inner[3:]}" if j == layers else None
    if not down and slot in ("1", "2") and inner.startswith("conv."):
        return f"{side}.upsamplers.0.conv.{inner[5:]}" if j == layers else None
    if slot not in ("0", "1"):
        return None
    kind = "attentions" if slot == "1" else "resnets"
    return f"{side}.{kind}.{j}.{_inner(inner, slot == '1')}"


def _inner(name: str, attention: bool) -> str:
    if attention:
        return name
    for theirs, ours in _RESNET.items():
        if name.startswith(f"{theirs}."):
            return ours + name[len(theirs) :]
    return f"?{name}"


def vae_name(name: str, levels: int) -> str:
    """Returns the autoencoder's name of a tensor (its prefix cut off); unknown ones unchanged."""

    def up(match: re.Match[str]) -> str:
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}."

    name = re.sub(r"^encoder\.down\.(\d{1,3})\.", r"encoder.down_blocks.\1.", name)
    name = re.sub(r"^decoder\.up\.(\d{1,3})\.", up, name)
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    name = re.sub(r"\.mid\.block_1\.", ".mid_block.resnets.0.", name)
    name = re.sub(r"\.mid\.block_2\.", ".mid_block.resnets.1.", name)
    name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
    name = name.replace(".nin_shortcut.", ".conv_shortcut.").replace(
        ".norm_out.", ".conv_norm_out."
    )
    attention = re.fullmatch(r"(.*\.mid)\.attn_1\.(norm|q|k|v|proj_out)\.(weight|bias)", name)
    if attention is None:
        return name
    inner = {"norm": "group_norm", "proj_out": "to_out.0"}.get(attention[2], f"to_{attention[2]}")
    return f"{attention[1]}_block.attentions.0.{inner}.{attention[3]}"


def is_open_clip(names: Iterable[str]) -> bool:
    """Says whether the text encoder is open_clip's: Stable Diffusion 2."""
    return any(name.startswith(f"{_OPEN_CLIP}transformer.resblocks.") for name in names)


def text_entries(names: Iterable[str], layers: int) -> dict[str, Entry]:
    """Returns where the text encoder's tensors come from.

    Args:
        names: All names in the file.
        layers: Layers that are kept; of open_clip's text encoder Stable Diffusion 2 leaves out the
            last, so that its tensors are dropped.
    """
    found: dict[str, Entry] = {}
    for name in names:
        if is_ignored(name):
            continue
        if name.startswith(_CLIP):
            found[name.removeprefix(_CLIP).removeprefix("text_model.")] = Entry(name)
        elif name.startswith(_OPEN_CLIP):
            found |= _open_clip_entries(name, name.removeprefix(_OPEN_CLIP), layers)
        elif name.startswith(TEXT):
            found[name] = Entry(name)
    return found


def _open_clip_entries(stored: str, name: str, layers: int) -> Mapping[str, Entry]:
    if name in _OPEN_CLIP_FIXED:
        return {_OPEN_CLIP_FIXED[name]: Entry(stored)}
    layer = re.fullmatch(r"transformer\.resblocks\.(\d{1,4})\.(.+?)[._](weight|bias)", name)
    if layer is None:
        return {name: Entry(stored)}
    number, inner, leaf = int(layer[1]), layer[2], layer[3]
    if number == layers:
        return {}
    home = f"encoder.layers.{number}"
    if inner == "attn.in_proj":
        return {
            f"{home}.self_attn.{letter}_proj.{leaf}": Entry(stored, part)
            for part, letter in enumerate("qkv")
        }
    return {f"{home}.{_OPEN_CLIP_LAYER.get(inner, inner)}.{leaf}": Entry(stored)}
