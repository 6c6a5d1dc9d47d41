"""From a configuration and a base model to a fine-tuned pipeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax import interop
from memjax.cli.fine_tune_loop import Job, train_job
from memjax.core.mesh import fetch
from memjax.data.planted_duplicates import Planted
from memjax.runs.outputs import out_folder
from memjax.runs.tiny_base import make_tiny_base
from memjax.runs.train import audit_options, data_of, optimizer_of, options_of, planted_of
from memjax.runtime.hosts import first_alone, is_first
from memjax.sampling import SamplingOptions
from memjax.training.data import RunData
from memjax.training.fine_tune import Tuning
from memjax.training.latent_batches import CAPTION_CHOICES
from memjax.training.latents import latent_side
from memjax.training.loop import TrainResult
from memjax.training.state import state_hash
from memjax.training.text_embeddings import DTYPES

PIPELINE, BASE = "pipeline", "base"


def fine_tune_run(
    config: dict[str, Any],
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
    profile_steps: int = 0,
) -> TrainResult:
    """Fine-tunes a base model, or goes on with it, and writes ``WORKDIR/pipeline``.

    The pipeline is the base with the moving average of the weights, adapters merged. What it makes
    by default has the size it was fine-tuned at.

    Args:
        config: A plain configuration with a ``fine_tune`` section, its ranges already checked.
        workdir: Folder of the run.
        allow_config_change: Go on although the configuration differs from the saved one.
        profile_steps: Steps to record, see :func:`memjax.training.loop.train`.

    Raises:
        ValueError: Base, data and configuration do not fit each other; nothing is compiled then.
    """
    workdir = out_folder(workdir, "workdir")
    tuning = check_fine_tune(config)
    with first_alone("base"):  # it may have to be made
        base = _sized(_open_base(config, workdir), config["data"])
    jax.eval_shape(tuning.start, jax.random.key(0), base.unet_params)  # do the adapters fit it?
    completed = _completed(config, base, _base_path(config, workdir))
    data, planted = _planted(config, data_of(config, workdir))
    key = state_hash([base.unet_params, base.vae_params, base.text_params])
    compute = config["model"]
    job = Job(completed, compute, workdir, base, key, data, planted, tuning)
    result, weights = train_job(
        job, allow_config_change=allow_config_change, profile_steps=profile_steps
    )
    done = base._replace(unet_params=fetch(weights))
    if is_first():
        interop.save(done, workdir / PIPELINE, force=True)
    return result


def check_fine_tune(config: Mapping[str, Any]) -> Tuning:
    """Refuses what can be refused from the configuration alone.

    Returns:
        What is trained.

    Raises:
        ValueError: Naming the value.
    """
    section = config["fine_tune"]
    tuning = Tuning(section["method"], section["rank"], section["alpha"], section["targets"])
    options_of(config, "eps")
    optimizer_of(config["train"])
    SamplingOptions(**config["sampling"]).static()
    audit_options(config)
    choices = {"captions": CAPTION_CHOICES, "cache_dtype": DTYPES}
    for name, known in choices.items():
        if section[name] not in known:
            raise ValueError(f"fine_tune.{name} is {section[name]!r}, expected one of {known}.")
    if section["cache_batch"] < 1:
        raise ValueError(f"fine_tune.cache_batch is {section['cache_batch']}, expected at least 1.")
    if not section["base"] and config["data"]["kind"] != "scenes":
        raise ValueError(
            "fine_tune.base is empty, expected the model to start from: pass "
            "--config.fine_tune.base=FOLDER (a diffusers folder, a single file or a hub id)."
        )
    return tuning


def _base_path(config: Mapping[str, Any], workdir: Path) -> str:
    return config["fine_tune"]["base"] or str(workdir / BASE)


def _open_base(config: Mapping[str, Any], workdir: Path) -> Any:
    section = config["fine_tune"]
    if not section["base"]:
        make_tiny_base(workdir / BASE, section["tiny"], config["data"]["size"])
    named = {name: section[name] for name in ("revision", "variant") if section[name]}
    base = interop.load(_base_path(config, workdir), dtype="float32", **named)
    for note in base.info["notes"]:
        print(f"note: {note}")
    # On the host: only what is in use at a time takes the accelerator's memory.
    parts = ("unet_params", "vae_params", "text_params")
    return base._replace(**{name: jax.device_get(getattr(base, name)) for name in parts})


def _sized(base: Any, data: Mapping[str, Any]) -> Any:
    """The pipeline as it will be saved: its usual size is the one it is fine-tuned at."""
    side = latent_side(base.vae, data["size"])
    base.unet.config.validate(side)
    if base.vae.config.in_channels != data["channels"]:
        raise ValueError(
            f"data.channels is {data['channels']}, expected {base.vae.config.in_channels}: the "
            "base's autoencoder reads such pictures."
        )
    settings = {name: dict(file) for name, file in base.settings.items()}
    settings["unet"]["sample_size"] = side
    settings["vae"]["sample_size"] = data["size"]
    return base._replace(settings=settings, sample_shape=(side, side, base.sample_shape[-1]))


def _completed(config: Mapping[str, Any], base: Any, path: str) -> dict[str, Any]:
    """The configuration with what the base says about network, schedule and sampling."""
    return {
        **config,
        "model": {**vars(base.unet.config), **config["model"]},
        "diffusion": {**vars(base.spec), "prediction": base.prediction},
        "sampling": {**base.sampling, **config["sampling"]},
        "fine_tune": {**config["fine_tune"], "base": path},
    }


def _planted(config: Mapping[str, Any], data: RunData) -> tuple[RunData, Planted]:
    """Decides how often each row is shown; rows that never are, are left out."""
    planted = planted_of(config, data)
    rows = np.flatnonzero(planted.trained)
    kept = Planted(
        planted.duplicated[rows],
        None if planted.repeats is None else planted.repeats[rows],
        None if planted.weights is None else planted.weights[rows],
    )
    return data._replace(train=[data.train[row] for row in rows]), kept
