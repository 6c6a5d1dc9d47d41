"""The settings of published CLIP models: what the JSON files beside the weights say."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from memjax.interop.fields import Fields
from memjax.interop.json_files import read_json
from memjax.interop.stable_diffusion.network_settings import compute_dtype, text_config
from memjax.models.clip.text import ARGMAX_EOS, CLIPTextConfig
from memjax.models.clip.vision import CLIPVisionConfig

Settings = Mapping[str, Any]
Configs = tuple[CLIPTextConfig, CLIPVisionConfig]
SUPPORTED = "CLIP models whose two towers are plain transformers"
RESAMPLING = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers
ACTIVATIONS = ("quick_gelu", "gelu")


class Preprocessing(NamedTuple):
    """What images go through: the short side to ``size``, its central square, normalization.

    Attributes:
        size: Side of the square in pixels.
        mean: Subtracted from images in [0, 1], a channel.
        std: Divided by, a channel.
        resample: ``bicubic`` or ``bilinear``, antialiased as Pillow does it.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"


def transformers_configs(settings: Settings, where: str, dtype: str) -> Configs:
    """Reads both towers' recipes from the ``config.json`` of a whole model.

    .. note:: Files of 2021 and 2022 repeat a part as ``text_config_dict``, which counts more.

    Raises:
        ValueError: A part is missing, or lists every setting that is not supported.
    """
    fields = Fields(settings, where)
    shared = fields.whole("projection_dim", 0, 65_536, least=0)
    fields.finish(SUPPORTED)
    texts, pictures = (_tower(settings, where, tower) for tower in ("text", "vision"))
    text = text_config(texts, where, dtype)
    widths = [Fields(part, where) for part in (texts, pictures)]
    projections = [shared or part.whole("projection_dim", 512, 65_536) for part in widths]
    text = dataclasses.replace(text, projection_dim=projections[0])
    return text, _vision(pictures, where, dtype, projections[1])


def _tower(settings: Settings, where: str, tower: str) -> dict[str, Any]:
    parts = [settings.get(f"{tower}_config{end}") for end in ("", "_dict")]
    found = [part for part in parts if isinstance(part, Mapping)]
    if not found:
        raise ValueError(
            f"The file {where} has no {tower}_config, expected the settings of a whole CLIP model: "
            "give a folder with both towers."
        )
    return {key: value for part in found for key, value in part.items()}


def _vision(settings: Settings, where: str, dtype: str, projection: int) -> CLIPVisionConfig:
    fields = Fields(settings, where)
    fields.choice("model_type", "clip_vision_model")
    fields.choice("quantization_config", None)
    config = {
        "image_size": fields.same("image_size", 224, 10_000),
        "patch_size": fields.same("patch_size", 32, 10_000),
        "num_channels": fields.whole("num_channels", 3, 16),
        "hidden_size": fields.whole("hidden_size", 768, 65_536),
        "intermediate_size": fields.whole("intermediate_size", 3072, 10**6),
        "num_layers": fields.whole("num_hidden_layers", 12, 256),
        "num_heads": fields.whole("num_attention_heads", 12, 65_536),
        "hidden_act": fields.choice("hidden_act", *ACTIVATIONS),
        "norm_eps": fields.number("layer_norm_eps", 1e-5, 1e-12, 1.0),
    }
    fields.finish(SUPPORTED)
    config |= {"projection_dim": projection, "dtype": compute_dtype(dtype)}
    return _built(CLIPVisionConfig, config, where)


def open_clip_configs(settings: Settings, where: str, dtype: str) -> Configs:
    """Reads both towers' recipes from ``open_clip_config.json``.

    .. note:: open_clip pools a text at its largest id and pads with 0.

    Raises:
        ValueError: A part is missing, or lists every setting that is not supported.
    """
    model = _part(settings, where, "model_cfg")
    fields = Fields(model, where)
    act = "quick_gelu" if fields.choice("quick_gelu", False, True) else "gelu"
    shared = {
        "projection_dim": fields.whole("embed_dim", 512, 65_536),
        "hidden_act": act,
        "dtype": compute_dtype(dtype),
    }
    fields.ignore("vision_cfg", "text_cfg", "custom_text", "init_logit_scale", "init_logit_bias")
    fields.refuse_others()
    fields.finish(SUPPORTED)
    text = _open_clip_text(Fields(_part(model, where, "text_cfg"), where))
    vision = _open_clip_vision(Fields(_part(model, where, "vision_cfg"), where))
    return (
        _built(CLIPTextConfig, {**text, **shared}, where),
        _built(CLIPVisionConfig, {**vision, **shared}, where),
    )


def _part(settings: Settings, where: str, name: str) -> Settings:
    part = settings.get(name)
    if not isinstance(part, Mapping):
        raise ValueError(
            f"The file {where} has no {name}, expected model_cfg with vision_cfg and text_cfg: "
            "fetch it again from where the weights came from."
        )
    return part


def _open_clip_text(fields: Fields) -> dict[str, Any]:
    width = fields.whole("width", 512, 65_536)
    config = {
        "vocab_size": fields.whole("vocab_size", 49408, 10**7),
        "hidden_size": width,
        "intermediate_size": int(width * fields.number("mlp_ratio", 4.0, 0.01, 100.0)),
        "num_layers": fields.whole("layers", 12, 256),
        "num_heads": fields.whole("heads", 8, 65_536),
        "max_length": fields.whole("context_length", 77, 10**5),
        "eos_token_id": ARGMAX_EOS,
    }
    fields.choice("pool_type", "argmax")
    fields.refuse_others()
    fields.finish(SUPPORTED)
    return config


def _open_clip_vision(fields: Fields) -> dict[str, Any]:
    width, head = fields.whole("width", 768, 65_536), fields.whole("head_width", 64, 65_536)
    config = {
        "image_size": fields.same("image_size", 224, 10_000),
        "patch_size": fields.same("patch_size", 16, 10_000),
        "hidden_size": width,
        "intermediate_size": int(width * fields.number("mlp_ratio", 4.0, 0.01, 100.0)),
        "num_layers": fields.whole("layers", 12, 256),
        "num_heads": width // head,
    }
    fields.choice("pool_type", "tok")
    fields.ignore("patch_dropout")  # of training alone
    fields.refuse_others()
    fields.finish(SUPPORTED)
    return config


def _built(kind: Any, config: dict[str, Any], where: str) -> Any:
    try:
        return kind(**config)
    except ValueError as error:
        raise ValueError(f"The file {where} cannot be right: {error}") from error


def transformers_preprocessing(folder: pathlib.Path, image_size: int) -> Preprocessing:
    """Reads ``preprocessor_config.json`` (or ``processor_config.json``); CLIP's own without one.

    Raises:
        ValueError: Its images are not what the image tower takes.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            whole: Settings = read_json(folder / name)
            part = whole.get("image_processor", whole)
            part = part if isinstance(part, Mapping) else whole
            cropped = part.get("do_center_crop", True) and part.get("crop_size")
            size = cropped or part.get("size")
            names = ("image_mean", "image_std")
            return _preprocessing(part, str(folder / name), image_size, size, names)
    return Preprocessing(size=image_size)


def open_clip_preprocessing(settings: Settings, where: str, image_size: int) -> Preprocessing:
    """Reads ``preprocess_cfg``; CLIP's own values where it is silent.

    Raises:
        ValueError: Its images are not what the image tower takes.
    """
    part = settings.get("preprocess_cfg")
    part = part if isinstance(part, Mapping) else {}
    fields = Fields(part, where)
    fields.choice("resize_mode", "shortest")
    fields.finish("CLIP models whose images are resized by their short side")
    names = ("mean", "std")
    return _preprocessing(part, where, image_size, part.get("size"), names, "interpolation")


def _preprocessing(
    settings: Settings,
    where: str,
    image_size: int,
    size: Any,
    names: tuple[str, str],
    resample: str = "resample",
) -> Preprocessing:
    base, fields = Preprocessing(size=image_size), Fields(settings, where)
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    if isinstance(size, list) and size and all(side == size[0] for side in size):
        size = size[0]
    if size not in (None, image_size):
        fields.problems.append(f"images of {str(size)[:80]} pixels (expected {image_size})")
    method = fields.choice(resample, "bicubic", "bilinear", *RESAMPLING)
    mean, std = _channels(fields, names[0], base.mean), _channels(fields, names[1], base.std)
    fields.finish(SUPPORTED)
    return Preprocessing(image_size, mean, std, RESAMPLING.get(method, method))


def _channels(fields: Fields, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = fields.get(name, list(default))
    if isinstance(values, list) and all(type(v) in (int, float) for v in values) and values:
        return tuple(map(float, values))
    fields.problems.append(f"{name}={str(values)[:80]} (expected one number a channel)")
    return default
