"""Reads Stable Diffusion models: a diffusers folder, a single file, a name on the hub.

Nothing pickled is opened, nothing is executed, and every key of the weights must fit.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memjax.interop import fingerprints
from memjax.interop.clip.tokenizer import load_tokenizer
from memjax.interop.file_kinds import other_kind
from memjax.interop.fill import check_dtype, fill, plain_entries
from memjax.interop.json_files import read_json
from memjax.interop.progress import Progress, counter
from memjax.interop.stable_diffusion.folder import (
    PARTS,
    PICKLED,
    SINGLE,
    check_variant,
    read_index,
    refusal_of_pickles,
    weight_files,
)
from memjax.interop.stable_diffusion.hub import HUB_ID, fetch
from memjax.interop.stable_diffusion.network_settings import text_config, unet_config, vae_config
from memjax.interop.stable_diffusion.pipeline import (
    TITLES,
    Networks,
    Pipeline,
    assemble,
    check_parts,
    latent_size,
    padding_notes,
)
from memjax.interop.stable_diffusion.scheduler_settings import distilled_notes, scheduling
from memjax.interop.stable_diffusion.single_file import load_single_file
from memjax.interop.weight_files import WeightFiles
from memjax.models.clip.text import CLIPText
from memjax.models.unet.network import UNet
from memjax.models.vae import AutoencoderKL


def load(
    path_or_hub_id: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Pipeline:
    """Loads a model of Stable Diffusion 1 or 2.

    Weights are read tensor by tensor: beside the parameters in their dtype, little more than the
    largest tensor is in memory at any time.

    Args:
        path_or_hub_id: A diffusers folder; a single ``.safetensors`` file in the layout of the
            original repositories; or ``owner/name`` on the Hugging Face hub.
        dtype: Of the parameters: ``float32``, ``bfloat16`` or ``float16``. The networks compute in
            bfloat16 for bfloat16 and in float32 otherwise.
        variant: For example ``"fp16"`` for ``….fp16.safetensors``; parts without such files give
            their plain ones.
        revision: For a hub id: branch, tag or commit; ``info["revision"]`` has the commit.
        tokenizer: For a single file, which has none: a folder with the tokenizer's files.
        prediction: For a single file: ``"eps"`` or ``"v"``. Left out, what the file's metadata
            (``modelspec.prediction_type``) or a ``.yaml`` beside it say; where they are silent,
            ``"eps"`` for Stable Diffusion 1 and ``"v"`` for 2.
        weights: For a single file: ``"model"``, or ``"ema"`` for the averaged weights of the U-Net
            that a training run left beside them. Left out, ``"model"``, and a note where there are
            averaged ones.
        progress: Told the bytes read and their total.

    Raises:
        ValueError: One sentence that says what is missing, damaged, unsupported or does not fit.
    """
    check_dtype(dtype)
    check_variant(variant)
    text, place = os.fspath(path_or_hub_id), Path(path_or_hub_id)
    if place.is_file():
        _refuse(text, "a file", variant=variant, revision=revision)
        return _load_file(place, dtype, tokenizer, prediction, weights, progress)
    _refuse(text, "not a single file", tokenizer=tokenizer, prediction=prediction, weights=weights)
    if place.is_dir():
        _refuse(text, "a folder", revision=revision)
        return load_folder(place, dtype, variant, {"kind": "diffusers folder"}, progress)
    if place.suffix in (*PICKLED, ".safetensors") or not HUB_ID.fullmatch(text):
        raise ValueError(
            f"There is no folder or file {text}; give a diffusers folder, a .safetensors file or a "
            "name on the hub such as 'owner/model'."
        )
    folder, commit = fetch(text, variant, revision)
    origin = {"kind": "hub", "model": text, "revision": commit}
    return load_folder(folder, dtype, variant, origin, progress)


def _refuse(path: str, what: str, **given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f"{' and '.join(names)} was given for {path}, which is {what}: leave it out."
        )


def _load_file(
    path: Path,
    dtype: str,
    tokenizer: str | os.PathLike[str] | None,
    prediction: str | None,
    weights: str | None,
    progress: Progress | None,
) -> Pipeline:
    if path.suffix.lower() in PICKLED:
        raise ValueError(refusal_of_pickles(path))
    if path.suffix.lower() not in SINGLE:
        kind = other_kind(path)
        if kind is not None:
            raise ValueError(f"The file {path} is {kind}.")
        raise ValueError(
            f"The file {path} is not a .safetensors file; give a diffusers folder, a .safetensors "
            "file or a name on the hub."
        )
    return load_single_file(path, dtype, tokenizer, prediction, weights, progress)


def load_folder(
    folder: Path,
    dtype: str,
    variant: str | None,
    origin: Mapping[str, Any],
    progress: Progress | None = None,
) -> Pipeline:
    """Loads a diffusers folder; see :func:`load`.

    Args:
        folder: The folder.
        dtype: Of the parameters.
        variant: Of the weights files.
        origin: ``kind``, and ``model`` and ``revision`` where they are not the folder's own.
        progress: Told the bytes read and their total.
    """
    settings = _read_settings(folder)
    networks = networks_of(settings, folder, dtype)
    schedule = scheduling(settings["scheduler"], str(folder / "scheduler/scheduler_config.json"))
    tokenizer = load_tokenizer(folder / "tokenizer")
    check_parts(networks, tokenizer, str(folder))
    where = str(folder / "unet/config.json")
    size = latent_size(settings["unet"].get("sample_size", 64), networks, where)
    files = {part: weight_files(folder, part, variant) for part in PARTS}
    paths = [file for part in files.values() for file in part]
    digests = fingerprints.verify(folder, paths)
    params = _read_weights(files, networks, settings, dtype, progress)
    info = {"model": str(folder), **origin, "dtype": dtype, "variant": variant, "sha256": digests}
    converted = (folder / fingerprints.FILE).is_file()
    padding = padding_notes(networks, tokenizer, converted)
    names = (Path(info["model"]).name, *_former_names(folder, settings))
    distilled = distilled_notes(names, schedule.sampling)
    info["notes"] = [*schedule.notes, *_variant_notes(files, variant), *padding, *distilled]
    info["weights"] = {p.relative_to(folder).as_posix(): p.stat().st_size for p in paths}
    return assemble(networks, params, tokenizer, schedule, size, settings, info)


def _read_settings(folder: Path) -> dict[str, dict[str, Any]]:
    settings = {"model_index": read_index(folder)}
    for part in PARTS:
        settings[part] = read_json(folder / part / "config.json")
    settings["scheduler"] = read_json(folder / "scheduler/scheduler_config.json")
    return settings


def networks_of(settings: Mapping[str, Any], folder: Path, dtype: str) -> Networks:
    """Returns the networks that a folder's settings describe."""
    where = {part: str(folder / part / "config.json") for part in PARTS}
    return Networks(
        UNet(unet_config(settings["unet"], where["unet"], dtype)),
        AutoencoderKL(vae_config(settings["vae"], where["vae"], dtype)),
        CLIPText(text_config(settings["text_encoder"], where["text_encoder"], dtype)),
    )


def _former_names(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Returns the names that the model had before it came into its folder."""
    index, unet = settings["model_index"], settings["unet"]
    found = [index.get("_name_or_path"), unet.get("_name_or_path"), fingerprints.source(folder)]
    return [re.split(r"[/\\]", name)[-1] for name in found if isinstance(name, str)]


def _variant_notes(files: Mapping[str, list[Path]], variant: str | None) -> list[str]:
    plain = [part for part, paths in files.items() if variant and variant not in paths[0].name]
    return [f"No {variant} files for {', '.join(plain)}: plain ones were read."] if plain else []


def _read_weights(
    files: Mapping[str, list[Path]],
    networks: Networks,
    settings: Mapping[str, Any],
    dtype: str,
    progress: Progress | None,
) -> dict[str, Any]:
    opened = {part: WeightFiles(paths) for part, paths in files.items()}
    told = counter(progress, sum(weights.num_bytes for weights in opened.values()))
    templates = networks.templates()
    return {
        part: fill(
            weights,
            plain_entries(weights.stored, part),
            templates[part],
            linear_projection=bool(settings["unet"].get("use_linear_projection")),
            dtype=dtype,
            what=TITLES[part],
            where=str(files[part][0].parent),
            progress=told,
        )
        for part, weights in opened.items()
    }
