"""What a safetensors file holds that is no whole Stable Diffusion 1 or 2, told from its names."""

import re
from collections.abc import Iterable, Mapping

from memjax.interop.stable_diffusion.original_names import TEXT, UNET, VAE
from memjax.interop.weight_files import Stored

_CHOOSE = "choose a model of Stable Diffusion 1 or 2"
_WHOLE = "give a file of the whole model, or its diffusers folder"
_LORA = (
    "merge it into its base model, with diffusers where you trust it (load_lora_weights, "
    "fuse_lora, unload_lora_weights, save_pretrained), and give that folder"
)
# First what a whole model of another kind has, then parts: pattern, what it is, the way out.
_MODELS = (
    (r"depth_model\.", "Stable Diffusion 2 with depth", _CHOOSE),
    (r".*\.time_stack\.", "a video model", _CHOOSE),
    (r"conditioner\.embedders\.", "Stable Diffusion XL", _CHOOSE),
    (rf"{re.escape(UNET)}joint_blocks\.|joint_blocks\.", "Stable Diffusion 3", _CHOOSE),
    (rf"({re.escape(UNET)})?double_blocks\.", "Flux", _CHOOSE),
    (rf"{re.escape(UNET)}label_emb\.", "a model with conditions beside the text (Stable Diffusion "
     "XL, an upscaler or unCLIP)", _CHOOSE),
    (r"(control_model|controlnet_(cond_embedding|down_blocks)|input_hint_block|zero_convs)\.",
     "a ControlNet", _CHOOSE),
    (r".*(motion_modules|temporal_transformer)\.", "a motion module for videos", _CHOOSE),
    (r".*time_embed(ding)?\.cond_proj\.", "a latent consistency model, distilled to be sampled in "
     "few steps without guidance", "give the model that it was distilled from"),
)  # fmt: skip
_PARTS = (
    (r"lora_(unet|te\d?|transformer)_|lycoris_|.*([._]lora[._]|\.lora_(A|B|up|down|mid|magnitude)"
     r"|\.(hada|lokr|oft|glora)_|\.dora_scale)", "a LoRA", _LORA),
    (r"(ip_adapter|image_proj)\.", "an IP-Adapter", _CHOOSE),
    (r"(adapter\.)?body\.\d+\.", "a T2I-Adapter", _CHOOSE),
    (r"params_ema|model\.1\.sub\.", "an upscaler", _CHOOSE),
    (r"(model\.)?layers\.\d+\.(self_attn|mlp)\.|lm_head\.", "a language model", _CHOOSE),
    (r"[^.]*/.*", "weights that `memjax convert` wrote of a run", "give the run's folder"),
    (r"down_blocks\.", "the U-Net of a diffusers folder alone",
     "give the folder above, which holds model_index.json"),
)  # fmt: skip
_ALONE = (
    (rf"{re.escape(UNET)}|(in|out)put_blocks\.", "a U-Net alone", _WHOLE),
    (rf"{re.escape(VAE)}|(en|de)coder\.", "an autoencoder (VAE) alone", _WHOLE),
    (rf"{re.escape(TEXT)}|text_model\.", "a text encoder alone", _WHOLE),
    (r"[^./]+$", "a textual inversion, the embedding of a word alone", "load it into its model "
     "with diffusers where you trust it (load_textual_inversion, save_pretrained), and give that "
     "folder"),
)  # fmt: skip


def refuse_other_models(path: object, stored: Mapping[str, Stored]) -> None:
    """Refuses a file by what it holds, where its names tell.

    Raises:
        ValueError: It holds another model than Stable Diffusion 1 and 2, or one part of a model.
    """
    _refuse(path, stored, _MODELS)
    found = {start for start in (UNET, VAE, TEXT) if any(name.startswith(start) for name in stored)}
    if UNET not in found:
        _refuse(path, stored, _PARTS)
    if len(found) < 2:
        _refuse(path, stored, _ALONE)


def _refuse(path: object, names: Iterable[str], kinds: Iterable[tuple[str, str, str]]) -> None:
    for pattern, what, way in kinds:
        if any(re.match(pattern, name) for name in names):
            raise ValueError(f"The file {path} holds {what}, which is not supported; {way}.")
