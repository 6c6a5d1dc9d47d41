"""Stable Diffusion in one ``.safetensors`` file, in the layout of the original repositories."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Params
from memjax.interop.clip.tokenizer import PromptTokenizer, load_tokenizer
from memjax.interop.fill import Entry, fill, listed
from memjax.interop.progress import Progress, counter
from memjax.interop.stable_diffusion.folder import model_index
from memjax.interop.stable_diffusion.network_settings import compute_dtype
from memjax.interop.stable_diffusion.original_names import (
    EMA,
    TEXT,
    UNET,
    VAE,
    averaged_name,
    is_ignored,
    text_entries,
    unet_name,
    vae_name,
)
from memjax.interop.stable_diffusion.original_shapes import (
    UnknownShapesError,
    is_linear,
    text_recipe,
    unet_recipe,
    vae_recipe,
)
from memjax.interop.stable_diffusion.other_files import refuse_other_models
from memjax.interop.stable_diffusion.pipeline import (
    TITLES,
    Networks,
    Pipeline,
    assemble,
    check_parts,
    padding_notes,
)
from memjax.interop.stable_diffusion.scheduler_settings import (
    SPEC,
    distilled_notes,
    scheduler_settings,
    scheduling,
)
from memjax.interop.stable_diffusion.settings_writer import (
    text_settings,
    unet_settings,
    vae_settings,
)
from memjax.interop.stated_prediction import choose_prediction, choose_schedule
from memjax.interop.weight_files import FLOATS, Stored, WeightFiles, read_metadata
from memjax.models.clip.text import CLIPText
from memjax.models.unet.network import UNet
from memjax.models.vae import AutoencoderKL

SIZES = {"eps": 64, "v": 96}
_RESOLUTION = "modelspec.resolution"


def load_single_file(
    path: Path,
    dtype: str,
    tokenizer: str | os.PathLike[str] | None,
    prediction: str | None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Pipeline:
    """Loads a single file; see :func:`memjax.interop.load`.

    .. note:: Whether Stable Diffusion 2 predicts ε (the base models) or v (768 pixels) is not in
        the weights: where neither ``prediction`` nor the file's metadata nor a ``.yaml`` beside it
        say so, it is taken to be v, with latents of 96 × 96, and ``info["notes"]`` says so.

    Raises:
        ValueError: Also without ``tokenizer``, and for files of other models.
    """
    if prediction not in (None, "eps", "v"):
        raise ValueError(f"prediction is {prediction!r}, expected 'eps' or 'v'.")
    if weights not in (None, "model", "ema"):
        raise ValueError(f"weights is {weights!r}, expected 'model' or 'ema'.")
    files = WeightFiles([path])
    refuse_other_models(path, files.stored)
    if tokenizer is None:
        raise ValueError(
            f"The file {path} holds no tokenizer; give the folder of one as tokenizer "
            "(--tokenizer), for instance the tokenizer folder of the same model in the layout of "
            "diffusers."
        )
    networks = _networks(path, files, dtype)
    words = load_tokenizer(tokenizer)
    check_parts(networks, words, str(path))
    entries = _entries(path, files.stored, networks)
    averaged = _averaged(path, files.stored, entries["unet"], weights)
    spec, notes = choose_schedule(path, SPEC)
    _check_schedule(path, files, spec)
    second, metadata = is_linear(files.stored), read_metadata(path)
    predicted, said = choose_prediction(
        path, metadata, prediction, second, "v_pred" in files.stored
    )
    size, sized = _latent_size(metadata, networks, SIZES[predicted if second else "eps"])
    settings = _settings(networks, words, second, spec, predicted, size)
    params = _read(path, files, entries, networks, second, dtype, progress)
    schedule = scheduling(settings["scheduler"], str(path))
    names = (path.stem, metadata.get("modelspec.title", ""))
    notes += [*said, *sized, *averaged, *padding_notes(networks, words, converted=False)]
    notes += distilled_notes(names, schedule.sampling)
    info: dict[str, Any] = {
        "kind": "single file",
        "model": str(path),
        "dtype": dtype,
        "variant": weights if weights == "ema" else None,
        "notes": notes,
    }
    info["weights"] = {path.name: path.stat().st_size}
    return assemble(networks, params, words, schedule, size, settings, info)


def _networks(path: Path, files: WeightFiles, dtype: str) -> Networks:
    compute = compute_dtype(dtype)
    try:
        return Networks(
            UNet(unet_recipe(files.stored, compute)),
            AutoencoderKL(vae_recipe(files.stored, compute)),
            CLIPText(text_recipe(files.stored, compute)),
        )
    except UnknownShapesError as error:
        raise ValueError(
            f"The file {path} is not a whole Stable Diffusion 1 or 2 in one file: it lacks "
            f"{_lacking(files.stored)}{error}; give a file that holds {UNET}…, {VAE}… and "
            f"{TEXT}…, or a diffusers folder."
        ) from error
    except ValueError as error:
        raise ValueError(f"The weights in {path} cannot be right: {error}") from error


def _lacking(stored: Mapping[str, Stored]) -> str:
    """Names the networks of which there is nothing, to stand before a tensor's name."""
    starts = {UNET: "the U-Net", VAE: "the autoencoder (VAE)", TEXT: "the text encoder"}
    absent = [
        what for start, what in starts.items() if not any(name.startswith(start) for name in stored)
    ]
    return f"{' and '.join(absent)}: " if absent else ""


def _entries(
    path: Path, stored: Mapping[str, Stored], networks: Networks
) -> dict[str, dict[str, Entry]]:
    """Gives every tensor to its network; those of none are refused by name."""
    layers = networks.unet.config.layers_per_block
    levels = len(networks.vae.config.block_out_channels)
    unet: dict[str, Entry] = {}
    vae: dict[str, Entry] = {}
    others = []
    for name in stored:
        if is_ignored(name) or name.startswith(TEXT):
            continue
        if name.startswith(UNET):
            unet[unet_name(name.removeprefix(UNET), layers) or name] = Entry(name)
        elif name.startswith(VAE):
            vae[vae_name(name.removeprefix(VAE), levels)] = Entry(name)
        else:
            others.append(name)
    if others:
        raise ValueError(
            f"The file {path} has tensors of no part of Stable Diffusion: {listed(others)}; give a "
            "file of the model alone."
        )
    text = text_entries(stored, networks.text.config.num_layers)
    return {"unet": unet, "vae": vae, "text_encoder": text}


def _averaged(
    path: Path, stored: Mapping[str, Stored], unet: dict[str, Entry], weights: str | None
) -> list[str]:
    """Points the U-Net's entries at averaged weights where asked to; says what was chosen."""
    if not any(name.startswith(f"{EMA}diffusion_model") for name in stored):
        if weights == "ema":
            raise ValueError(
                f"weights='ema' (--weights=ema) was given for {path}, which has no averaged "
                f"weights ({EMA}…): leave it out."
            )
        return []
    if weights == "model":
        return []
    if weights is None:
        return [
            f"The file has averaged weights of the U-Net, too ({EMA}…), which were passed over: "
            "weights='ema' (convert --weights=ema) takes them, 'model' says that they are not "
            "wanted."
        ]
    averages = {ours: Entry(averaged_name(entry.stored)) for ours, entry in unet.items()}
    missing = [entry.stored for entry in averages.values() if entry.stored not in stored]
    if missing:
        raise ValueError(
            f"The file {path} lacks averaged weights of {listed(missing)}: choose weights='model' "
            "(--weights=model)."
        )
    unet.update(averages)
    return [f"The averaged weights of the U-Net ({EMA}…) were taken, as asked."]


def _check_schedule(path: Path, files: WeightFiles, spec: ScheduleSpec) -> None:
    """Compares the schedule, where a training run left it in the file, as rounded there."""
    if "ztsnr" in files.stored:
        raise ValueError(
            f"The file {path} is marked as trained with a noise schedule that ends at a "
            "signal-to-noise ratio of zero (ztsnr), which is not supported; choose a model of "
            "Stable Diffusion 1 or 2 with its usual schedule."
        )
    stored = files.stored.get("alphas_cumprod")
    if stored is None or stored.dtype.startswith("F8"):  # Weights of 8 bits are refused by name.
        return
    found, usual = files.read("alphas_cumprod"), spec.build().alphas_bar
    rounding = float(jnp.finfo(found.dtype).eps) / 2 if stored.dtype in FLOATS else 0.0
    found = found.astype(np.float32)
    if found.shape != usual.shape or not np.allclose(found, usual, rtol=rounding, atol=1e-3):
        raise ValueError(
            f"The file {path} holds another noise schedule than "
            f"{'Stable Diffusion' if spec == SPEC else path.stem + '.yaml'}'s (scaled_linear, "
            f"{spec.num_timesteps} steps, {spec.beta_start:g} to {spec.beta_end:g}); convert it "
            "to a diffusers folder with its scheduler."
        )


def _latent_size(
    metadata: Mapping[str, str], networks: Networks, usual: int
) -> tuple[tuple[int, int], list[str]]:
    """Returns a latent's height and width, by the metadata where they name a resolution."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", metadata.get(_RESOLUTION, ""))
    pixels = (int(found[2]), int(found[1])) if found else (0, 0)  # written as width × height
    downscale = networks.vae.config.downscale
    step = downscale * networks.unet.config.size_multiple
    if not all(0 < side <= 4096 * downscale and side % step == 0 for side in pixels):
        return (usual, usual), []
    size = (pixels[0] // downscale, pixels[1] // downscale)
    if size == (usual, usual):
        return size, []
    return size, [
        f"Images have {pixels[1]} × {pixels[0]} pixels, as the metadata name it ({_RESOLUTION})."
    ]


def _settings(
    networks: Networks,
    words: PromptTokenizer,
    second: bool,
    spec: ScheduleSpec,
    prediction: str,
    size: tuple[int, int],
) -> dict[str, dict[str, Any]]:
    vae = networks.vae.config
    return {
        "model_index": model_index({}),
        "unet": unet_settings(networks.unet.config, size, linear=second),
        "vae": vae_settings(vae, max(size) * vae.downscale),
        "text_encoder": text_settings(networks.text.config, words.special_ids),
        "scheduler": scheduler_settings(spec, prediction),
    }


def _read(
    path: Path,
    files: WeightFiles,
    entries: Mapping[str, Mapping[str, Entry]],
    networks: Networks,
    second: bool,
    dtype: str,
    progress: Progress | None,
) -> dict[str, Params]:
    told = counter(progress, files.num_bytes)
    templates = networks.templates()
    return {
        part: fill(
            files,
            entries[part],
            templates[part],
            linear_projection=second,
            dtype=dtype,
            what=TITLES[part],
            where=str(path),
            progress=told,
        )
        for part in templates
    }
