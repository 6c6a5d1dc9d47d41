"""A Stable Diffusion folder on disk: which files it is made of, and that they are its own.

.. note:: Symbolic links are followed inside the folder only, and into the ``blobs`` beside the
    ``snapshots`` of a Hugging Face cache, which is how that cache lays folders out. A link that
    leads elsewhere is refused, a folder or a pipe in the place of a file as well.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.interop.fields import shown
from memjax.interop.file_kinds import kind_of_name
from memjax.interop.json_files import read_json

PARTS = ("unet", "vae", "text_encoder")
FOLDERS = (*PARTS, "tokenizer", "scheduler")
INDEX = "model_index.json"
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
SINGLE = (".safetensors", ".sft")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
MOST_SHARDS = 1000
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def read_index(folder: Path) -> dict[str, Any]:
    """Returns ``model_index.json`` after checking that it is a pipeline we know.

    Raises:
        ValueError: Another pipeline (SDXL, Flux, …), parts of other classes, links that lead out
            of the folder.
    """
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"The folder {folder} has no {INDEX}; expected a Stable Diffusion folder as diffusers "
            f"lays it out, with {', '.join(FOLDERS)} beside it, or a memjax run{meant(folder)}."
        )
    check_links(folder)
    index = read_json(folder / INDEX)
    name = index.get("_class_name")
    if name not in _PIPELINES:
        raise ValueError(
            f"The folder {folder} holds a {shown(name)}, which is not supported; choose a model of "
            f"Stable Diffusion 1 or 2 ({_PIPELINES[0]})."
        )
    wrong = [
        f"{part}={shown(index.get(part))} (expected {classes[0]})"
        for part, classes in _CLASSES.items()
        if not _is_class(index.get(part), classes)
    ]
    if wrong:
        raise ValueError(
            f"The file {folder / INDEX} has {', '.join(wrong)}; choose a model whose parts are "
            "those of Stable Diffusion 1 or 2."
        )
    return index


def meant(folder: Path) -> str:
    """Returns what a folder without an index has that may be meant, to follow a sentence."""
    below = [path.parent for path in sorted(folder.glob(f"*/{INDEX}"))[:1]]
    if below or (folder.parent / INDEX).is_file():
        return f": give {(below or [folder.parent])[0]}, which is one"
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SINGLE)
    return f": it holds {shown(files[0].name)}, give that file" if files else ""


def model_index(found: Mapping[str, Any], scheduler: str = "DDIMScheduler") -> dict[str, Any]:
    """Returns ``model_index.json`` for the parts that are kept, and nothing else of a found one."""
    index = {
        "_class_name": found.get("_class_name", _PIPELINES[0]),
        "_diffusers_version": found.get("_diffusers_version", "0.42.1"),
        "requires_safety_checker": False,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    absent = ("feature_extractor", "image_encoder", "safety_checker")
    return dict(sorted((index | {name: [None, None] for name in absent}).items()))


def _is_class(entry: Any, classes: Sequence[str]) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[1] in classes


def check_links(folder: Path) -> None:
    """Refuses symbolic links that lead out of the folder (see the module's note).

    Raises:
        ValueError: Names the link.
    """
    root = folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    for place in [root / INDEX, root / "memjax.json", *(root / name for name in FOLDERS)]:
        for path in [place, *(sorted(place.iterdir()) if place.is_dir() else [])]:
            target = path.resolve()
            if not any(target.is_relative_to(home) for home in homes):
                raise ValueError(
                    f"The link {path} leads out of the model's folder; put a copy of the file "
                    "there instead."
                )


def weight_files(folder: Path, part: str, variant: str | None = None) -> list[Path]:
    """Returns the safetensors files of one part: one, or the shards that an index lists.

    Args:
        folder: The model's folder.
        part: One of ``PARTS``.
        variant: For example ``"fp16"`` for ``….fp16.safetensors``; a part without files of that
            variant gives its plain ones.

    Raises:
        ValueError: There are none, only those of another variant, only pickled ones, or the index
            lists something that is not a file beside it.
    """
    return stem_files(folder / part, STEMS[part], variant)


def stem_files(home: Path, stem: str, variant: str | None = None) -> list[Path]:
    """Returns ``home/stem.safetensors``, or the shards of its index; see :func:`weight_files`."""
    check_variant(variant)
    for chosen in dict.fromkeys((variant, None)):
        mark = f".{chosen}" if chosen else ""
        single = home / f"{stem}{mark}.safetensors"
        if single.exists() or single.is_symlink():
            return [_regular(single)]
        index = home / f"{stem}.safetensors.index{mark}.json"
        if index.is_file():
            return _shards(index)
    raise ValueError(_nothing(home, stem, variant))


def check_variant(variant: str | None) -> None:
    """Refuses variants that could not be a part of a file name."""
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise ValueError(
            f"variant is {shown(variant)}, expected a part of a file name such as 'fp16': leave it "
            "out for the plain files."
        )


def _nothing(home: Path, stem: str, variant: str | None) -> str:
    names = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    pattern = re.compile(
        rf"{stem}(?:\.safetensors\.index)?\.([A-Za-z0-9_-]+)\.(?:safetensors|json)"
    )
    marks = [match[1] for match in map(pattern.fullmatch, names) if match]
    found = {re.sub(r"-\d+-of-\d+$", "", mark) for mark in marks}
    variants = sorted(found - {"safetensors", "index", variant})
    if variants:
        return (
            f"The folder {home} has no {stem}.safetensors, only the variants "
            f"{', '.join(variants)}; choose one with variant={variants[0]!r} "
            f"(--variant={variants[0]})."
        )
    other = next((name for name in names if kind_of_name(name)), None)
    if other is not None:
        return f"The folder {home} has no {stem}.safetensors; its {other} is {kind_of_name(other)}."
    if any(name.endswith(PICKLED) for name in names):
        return refusal_of_pickles(home.parent)
    return f"The folder {home} has no {stem}.safetensors; fetch the safetensors files of the model."


def refusal_of_pickles(path: Path) -> str:
    """Returns the sentence that refuses pickled weights and says how to get others."""
    if path.suffix in PICKLED:
        way = (
            'with diffusers, where you trust it, run python -c "from diffusers import '
            f"StableDiffusionPipeline as P; P.from_single_file('{path}').save_pretrained('NEW')\""
        )
    else:
        way = (
            'with diffusers, where you trust it, run python -c "from diffusers import '
            f"StableDiffusionPipeline as P; P.from_pretrained('{path}', use_safetensors=False)"
            ".save_pretrained('NEW')\""
        )
    return (
        f"The weights in {path} are pickled (.bin, .ckpt, .pt), which can run any program, so they "
        f"were not opened; fetch the safetensors files of the model, or {way}."
    )


def _shards(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, Mapping) or not listed:
        raise ValueError(f"The file {index} lists no shards in weight_map; fetch it again.")
    names: list[str] = []
    for name in listed.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or ".." in name:
            raise ValueError(
                f"The file {index} lists {shown(name)} as a shard, expected the name of a "
                ".safetensors file beside it; fetch it again."
            )
        names.append(name)
    names = list(dict.fromkeys(names))
    if len(names) > MOST_SHARDS:
        raise ValueError(f"The file {index} lists {len(names)} shards; fetch it again.")
    return [_regular(index.parent / name, index) for name in names]


def _regular(path: Path, index: Path | None = None) -> Path:
    if path.is_file():
        return path
    what = "is not a file" if path.exists() else "does not exist"
    by = f", which {index} lists," if index else ""
    raise ValueError(f"The weights file {path}{by} {what}; fetch it again.")
