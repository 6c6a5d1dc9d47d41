"""Published CLIP models, both towers and their projections, from folders of two layouts.

References:
    Radford et al. 2021, arXiv 2103.00020 (OpenAI's models, in transformers' layout); Cherti et al.
    2022, arXiv 2212.07143 (LAION's, in open_clip's layout).
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from memjax.core.types import Params
from memjax.interop.clip import layouts
from memjax.interop.clip.settings import (
    Configs,
    Preprocessing,
    open_clip_configs,
    open_clip_preprocessing,
    transformers_configs,
    transformers_preprocessing,
)
from memjax.interop.clip.tokenizer import PromptTokenizer, load_tokenizer
from memjax.interop.json_files import read_json
from memjax.interop.stable_diffusion.folder import stem_files
from memjax.interop.torch.state_dict import Path
from memjax.interop.weight_files import WeightFiles
from memjax.models.clip.text import CLIPText
from memjax.models.clip.vision import CLIPVision

OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
TRANSFORMERS = ("config.json", "model.safetensors")
SPLIT = ("text_encoder", "image_encoder")
STEM = "model"
PICKLED = ("pytorch_model.bin", "open_clip_pytorch_model.bin")


class CLIPModel(NamedTuple):
    """A text tower and an image tower that project into one space.

    Attributes:
        name: The folder's name, or ``owner/model@commit`` in a Hugging Face cache.
        text: Its ``apply({"params": text_params}, ids).projected`` are the texts' features.
        text_params: float32 NumPy arrays.
        vision: Its ``apply({"params": vision_params}, images)`` are the images' features.
        vision_params: float32 NumPy arrays.
        tokenizer: Texts → ids.
        preprocessing: What images go through before the image tower.
    """

    name: str
    text: CLIPText
    text_params: Params
    vision: CLIPVision
    vision_params: Params
    tokenizer: PromptTokenizer
    preprocessing: Preprocessing


def load_clip(path: Path, *, dtype: str = "float32") -> CLIPModel:
    """Loads a CLIP model that the user already has; nothing is fetched.

    Args:
        path: A folder with the tokenizer's files and ``config.json`` and ``model.safetensors`` as
            transformers lays them out (one file, shards with an index, or the towers apart under
            ``text_encoder`` and ``image_encoder``), or ``open_clip_config.json`` and
            ``open_clip_model.safetensors`` as open_clip does.
        dtype: Compute dtype of both towers; parameters stay float32.

    Raises:
        ValueError: Files are missing or damaged, the configuration is of another network, or keys
            are missing, left over or misshapen; all are listed.
    """
    folder = pathlib.Path(path)
    _refuse_pickled(folder)
    if all((folder / name).is_file() for name in OPEN_CLIP):
        return _load_open_clip(folder, dtype)
    if (folder / TRANSFORMERS[0]).is_file():
        return _load_transformers(folder, dtype)
    if all((folder / name / TRANSFORMERS[0]).is_file() for name in SPLIT):
        return _load_split(folder, dtype)
    raise ValueError(
        f"The folder {path} has neither {' and '.join(TRANSFORMERS)} nor "
        f"{' and '.join(OPEN_CLIP)}; give a CLIP folder as transformers or open_clip lays it out."
    )


def _refuse_pickled(folder: pathlib.Path) -> None:
    """Refuses folders whose weights are pickled only, and says how to get others."""
    pickled = [folder / name for name in PICKLED if (folder / name).is_file()]
    if pickled and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"The weights in {pickled[0]} are pickled, which can run any program, so they were not "
            "opened; fetch the safetensors files of the model, or with transformers, where you "
            'trust it, run python -c "from transformers import CLIPModel as C; '
            f"C.from_pretrained('{folder}', use_safetensors=False).save_pretrained('NEW')\"."
        )


def _load_open_clip(folder: pathlib.Path, dtype: str) -> CLIPModel:
    where, file = str(folder / OPEN_CLIP[0]), folder / OPEN_CLIP[1]
    settings = read_json(folder / OPEN_CLIP[0])
    configs = open_clip_configs(settings, where, dtype)
    files = WeightFiles([file])
    prefix = "text." if any(key.startswith("text.") for key in files.stored) else ""
    layout = layouts.open_clip_layout(prefix)
    ignored = (*layouts.IGNORED, *layouts.OPEN_CLIP_IGNORED)
    towers = _towers(configs)
    filled = layouts.fill_towers(file, towers, files, layout, ignored)
    preprocessing = open_clip_preprocessing(settings, where, configs[1].image_size)
    return _model(folder, folder, towers, filled, preprocessing)


def _load_transformers(folder: pathlib.Path, dtype: str) -> CLIPModel:
    settings = read_json(folder / TRANSFORMERS[0])
    configs = transformers_configs(settings, str(folder / TRANSFORMERS[0]), dtype)
    files = WeightFiles(stem_files(folder, STEM))
    renamed = {key: _lifted(key) for key in files.stored}
    return _assemble(folder, configs, files, renamed, folder, folder)


def _load_split(folder: pathlib.Path, dtype: str) -> CLIPModel:
    texts, pictures = (folder / name for name in SPLIT)
    parts = [read_json(part / TRANSFORMERS[0]) for part in (texts, pictures)]
    settings = {"text_config": parts[0], "vision_config": parts[1]}
    configs = transformers_configs(settings, str(folder), dtype)
    files = WeightFiles([*stem_files(texts, STEM), *stem_files(pictures, STEM)])
    renamed = {
        key: _lifted(_under("text" if tensor.file.parent == texts else "vision", key))
        for key, tensor in files.stored.items()
    }
    beside = [folder / name for name in ("tokenizer", "feature_extractor")]
    tokenizer, extractor = (place if place.is_dir() else folder for place in beside)
    return _assemble(folder, configs, files, renamed, tokenizer, extractor)


def _assemble(
    folder: pathlib.Path,
    configs: Configs,
    files: WeightFiles,
    renamed: Mapping[str, str],
    tokenizer: pathlib.Path,
    extractor: pathlib.Path,
) -> CLIPModel:
    """Fills both towers from keys of transformers and reads what lies beside them."""
    towers, layout = _towers(configs), layouts.transformers_layout
    filled = layouts.fill_towers(folder, towers, files, layout, layouts.IGNORED, renamed)
    preprocessing = transformers_preprocessing(extractor, configs[1].image_size)
    return _model(folder, tokenizer, towers, filled, preprocessing)


def _towers(configs: Configs) -> dict[str, Any]:
    return {"text": CLIPText(configs[0]), "vision": CLIPVision(configs[1])}


def _model(
    folder: pathlib.Path,
    tokenizer_folder: pathlib.Path,
    towers: Mapping[str, Any],
    filled: Mapping[str, Params],
    preprocessing: Preprocessing,
) -> CLIPModel:
    tokenizer, text = load_tokenizer(tokenizer_folder), towers["text"].config
    if len(tokenizer) > text.vocab_size or tokenizer.max_length > text.max_length:
        raise ValueError(
            f"The tokenizer in {tokenizer_folder} has {len(tokenizer)} ids and texts of "
            f"{tokenizer.max_length}, expected at most {text.vocab_size} and {text.max_length}: "
            "use the files that belong to the weights."
        )
    parts = (towers["text"], filled["text"], towers["vision"], filled["vision"])
    return CLIPModel(_name(folder.resolve()), *parts, tokenizer, preprocessing)


def _name(folder: pathlib.Path) -> str:
    """Returns the folder's name; of a snapshot in a Hugging Face cache, the model and commit."""
    if folder.parent.name != "snapshots":
        return folder.name
    model = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return f"{model}@{folder.name[:12]}"


def _lifted(key: str) -> str:
    """Towers nested once too often (``text_model.text_model``) → once."""
    return re.sub(r"^((?:text|vision)_model\.)\1+", r"\1", key)


def _under(tower: str, key: str) -> str:
    """Names of one tower alone, with or without its prefix → names in the whole model."""
    apart = key.startswith((f"{tower}_model.", *layouts.PROJECTIONS, "logit_"))
    return key if apart else f"{tower}_model.{key}"
