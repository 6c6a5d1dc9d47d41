"""A folder of scenes, a tiny pipeline and its latents, for the tests of fine-tuning."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memjax import interop
from memjax.data.phantoms.scenes import scene_words, write_scenes
from memjax.data.planted_duplicates import Planted, plant_duplicates
from memjax.data.readers.folder import read_folder
from memjax.data.records import Record
from memjax.models.vae import AutoencoderKL
from memjax.training.latents import LatentData, make_latents

# One level: most of a test's time goes into compiling the network's gradient.
UNET = {"block_out_channels": (8,), "attention_blocks": (True,), "mid_attention": False}
UNET |= {"num_heads": 2, "norm_num_groups": 4, "cross_attention_dim": 8}
VAE = {"block_out_channels": (4, 8), "norm_num_groups": 2, "mid_attention": False}
TEXT = {"intermediate_size": 16, "num_layers": 1, "num_heads": 2}


class LatentSet(NamedTuple):
    """What a step of fine-tuning needs."""

    base: interop.Pipeline
    records: list[Record]
    held_out: list[Record]
    latents: LatentData
    planted: Planted


def tiny_base(kind: str = "sd1", scaling_factor: float = 0.5) -> interop.Pipeline:
    base = interop.tiny_pipeline(
        kind, latent_size=8, words=scene_words(), unet=UNET, vae=VAE, text=TEXT
    )
    vae = AutoencoderKL(dataclasses.replace(base.vae.config, scaling_factor=scaling_factor))
    settings = {**base.settings, "vae": {**base.settings["vae"], "scaling_factor": scaling_factor}}
    return base._replace(vae=vae, settings=settings)


def write_set(folder: Path) -> Path:
    write_scenes(folder, size=16, num_images=6, num_duplicated=2, num_held_out=3, repeats=4, seed=5)
    return folder


def latent_set(workdir: Path, *, kind: str = "sd1", flip: bool = False) -> LatentSet:
    records, held_out, _ = read_folder(write_set(workdir / "data"))
    base = tiny_base(kind)
    latents, _ = make_latents(
        workdir,
        records,
        base,
        size=16,
        square="crop",
        flip=flip,
        dtype="float32",
        batch_size=3,
    )
    planted = plant_duplicates(records, str(workdir / "data"), seed=0, memorized="repeats")
    return LatentSet(base, records, held_out, latents, planted)


def full_moments(base: interop.Pipeline, images: np.ndarray) -> np.ndarray:
    moments = base.vae.apply({"params": base.vae_params}, images, method="encode")
    return np.concatenate([moments.mean, moments.log_var], axis=-1)
