"""Writes a pipeline as a folder that diffusers loads; whole, or not at all."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from memjax.interop import fingerprints
from memjax.interop.progress import Progress, counter
from memjax.interop.stable_diffusion.folder import INDEX, PARTS, STEMS, check_variant, model_index
from memjax.interop.stable_diffusion.loading import networks_of
from memjax.interop.stable_diffusion.pipeline import Pipeline
from memjax.interop.stable_diffusion.scheduler_settings import scheduling
from memjax.interop.tensor_writer import write_tensors
from memjax.runtime.files import beside, naming, replace_folder
from memjax.runtime.locks import hold

_TEXT_PREFIX = "text_model."
_OF_NO_WEIGHTS = ("dtype", "remat", "remat_policy", "zero_init_out", "projection_dim")


def save(
    pipeline: Pipeline,
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a pipeline in the layout of diffusers.

    The parameters keep their dtype, so loading gives the same bits. The folder is written beside
    the target under a temporary name and renamed when it is complete. ``memjax.json`` holds the
    sha256 of each weights file, which :func:`memjax.interop.load` verifies.

    Args:
        pipeline: What to write.
        path: The new folder.
        variant: For example ``"fp16"``: the weights files are then named ``….fp16.safetensors``.
        force: Replace a pipeline's folder that is there; a folder of anything else is never
            replaced.
        progress: Told the bytes written and their total.

    Returns:
        The folder.

    Raises:
        ValueError: There is something at ``path``, ``variant`` is no part of a file name, or the
            pipeline's ``settings`` describe other networks or another schedule than it has.

    .. note:: The text encoder's keys get the prefix ``text_model.``, which every version of
        transformers reads; safety checker, feature extractor and image encoder are left out.
    """
    check_variant(variant)
    target = Path(path)
    check_target(target, force=force)
    check_settings(pipeline)
    temporary = beside(target)
    with hold(target, kind="whole"):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            with naming(target):
                _write(pipeline, temporary, variant, progress)
            replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def check_target(target: Path, *, force: bool) -> None:
    """Refuses targets that would be overwritten.

    Raises:
        ValueError: ``target`` is a file, a folder with something in it and no ``force``, or a
            folder with something else than a pipeline in it.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"The target {target} is a file or a link; choose a new folder's name.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not force:
        raise ValueError(
            f"The folder {target} is there already and not empty; choose a new name, or replace it "
            "with force=True (--force)."
        )
    if not (target / INDEX).is_file():
        raise ValueError(
            f"The folder {target} has no {INDEX}, so it holds something else than a pipeline and "
            "is not replaced; choose a new name."
        )


def check_settings(pipeline: Pipeline) -> None:
    """Refuses settings that were not changed along with the networks they describe.

    Raises:
        ValueError: Lists the fields that differ.
    """
    told = networks_of(pipeline.settings, Path("settings"), "float32")
    schedule = scheduling(pipeline.settings["scheduler"], "settings")
    pairs = [
        (pipeline.unet.config, told.unet.config),
        (pipeline.vae.config, told.vae.config),
        (pipeline.text.config, told.text.config),
        (pipeline.spec, schedule.spec),
    ]
    wrong = [text for ours, theirs in pairs for text in _differences(ours, theirs)]
    if pipeline.prediction != schedule.prediction:
        wrong.append(f"prediction {pipeline.prediction!r} and {schedule.prediction!r}")
    if wrong:
        raise ValueError(
            f"The pipeline and its settings differ in {', '.join(wrong)}: change "
            "pipeline.settings, which is what is written, along with the networks."
        )


def _differences(ours: Any, theirs: Any) -> list[str]:
    """Names the fields that differ, but for those that are no property of the weights."""
    return [
        f"{field.name} {getattr(ours, field.name)!r} and {getattr(theirs, field.name)!r}"
        for field in dataclasses.fields(ours)
        if field.name not in _OF_NO_WEIGHTS
        and getattr(ours, field.name) != getattr(theirs, field.name)
    ]


def _write(
    pipeline: Pipeline, folder: Path, variant: str | None, progress: Progress | None
) -> None:
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(pipeline.params))
    told = counter(progress, total)
    mark = f".{variant}" if variant else ""
    linear = bool(pipeline.settings["unet"].get("use_linear_projection"))
    digests = {}
    for part in PARTS:
        (folder / part).mkdir()
        name = f"{part}/{STEMS[part]}{mark}.safetensors"
        prefix = _TEXT_PREFIX if part == "text_encoder" else ""
        params = pipeline.params[part]
        digests[name] = write_tensors(folder / name, params, linear, prefix=prefix, progress=told)
    pipeline.tokenizer.save(folder / "tokenizer")
    for name, settings in _settings_files(pipeline).items():
        _write_json(folder / name, settings)
    source = {key: pipeline.info.get(key) for key in ("kind", "model", "revision", "variant")}
    _write_json(folder / fingerprints.FILE, fingerprints.description(digests, source))


def _settings_files(pipeline: Pipeline) -> dict[str, Mapping[str, Any]]:
    settings = pipeline.settings
    dtype = str(jax.tree.leaves(pipeline.text_params)[0].dtype)
    text = {key: value for key, value in settings["text_encoder"].items() if key != "torch_dtype"}
    return {
        INDEX: model_index(settings["model_index"], settings["scheduler"]["_class_name"]),
        "unet/config.json": settings["unet"],
        "vae/config.json": settings["vae"],
        "text_encoder/config.json": {**text, "dtype": dtype},
        "scheduler/scheduler_config.json": settings["scheduler"],
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
