"""From a configuration and a base model to a fine-tuned pipeline."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax import interop
from memjax.core.mesh import fetch
from memjax.core.types import Params
from memjax.data.planted_duplicates import Planted
from memjax.data.records import Record
from memjax.runs.outputs import held_run, progress_bar
from memjax.runs.prompts import FOLDER as PROMPTS
from memjax.runs.prompts import caption_rows, write_prompt_files
from memjax.runs.tiny_base import make_tiny_base
from memjax.runs.train import (
    audit_options,
    data_of,
    data_record,
    optimizer_of,
    options_of,
    planted_of,
    sealed,
    write_summary,
)
from memjax.runtime.devices import keep_compiled
from memjax.runtime.hosts import first_alone, is_first
from memjax.runtime.provenance import versions
from memjax.sampling import SamplingOptions, sample
from memjax.training.data import RunData
from memjax.training.fine_tune import Tuning, make_fine_tune_step, training_unet, with_frozen
from memjax.training.latents import (
    CAPTION_CHOICES,
    DTYPES,
    LatentBatch,
    latent_batches,
    latent_side,
    make_latents,
)
from memjax.training.latents import FOLDER as LATENTS
from memjax.training.loop import TrainResult, train
from memjax.training.placement import Spread
from memjax.training.run import write_run_file
from memjax.training.state import state_hash

logger = logging.getLogger("memjax")
PIPELINE, BASE = "pipeline", "base"


class Job(NamedTuple):
    """What is known before anything is computed.

    Attributes:
        config: The configuration, completed with what the base says.
        compute: ``dtype``, ``remat`` and ``remat_policy`` of the network while training.
        workdir: Folder of the run.
        base: The pipeline to start from, its weights on the host.
        base_key: Hash of its weights.
        data: Training rows that are shown at all, and held-out rows.
        planted: How often each training row is shown.
        tuning: What is trained.
    """

    config: dict[str, Any]
    compute: Mapping[str, Any]
    workdir: Path
    base: Any
    base_key: str
    data: RunData
    planted: Planted
    tuning: Tuning

    @property
    def shown(self) -> np.ndarray:
        """How often an epoch shows each row, in the mean where rows are drawn."""
        if self.planted.repeats is not None:
            return self.planted.repeats.astype(np.float64)
        weights = np.asarray(self.planted.weights)
        return weights / weights.mean()


def train_job(
    job: Job, *, allow_config_change: bool, profile_steps: int = 0
) -> tuple[TrainResult, Params]:
    """Trains; returns the result and the network's averaged weights, adapters merged."""
    config, base, settings = job.config, job.base, job.config["train"]
    options = options_of(config, base.prediction)
    tx, rate = optimizer_of(settings)
    key = jax.random.key(config["seed"])
    keep_compiled()
    spread = Spread.of(config)
    batches_from = _batches(job, spread)
    trained, frozen = job.tuning.start(jax.random.fold_in(key, 0), base.unet_params)
    filtered = options.filter_threshold is not None
    state = spread.state(
        trained, tx, jax.random.fold_in(key, 1), num_rows=len(job.data.train), filter=filtered
    )
    frozen = spread.weights(frozen)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    del trained  # the state holds copies, and the first step takes their place
    step = make_fine_tune_step(
        training_unet(base.unet, **job.compute),
        base.spec.build(),
        tx,
        options,
        job.tuning,
        scaling_factor=base.vae.config.scaling_factor,
        learning_rate=rate,
        sharding=spread.sharding,
        accumulate=spread.accumulate,
    )
    _announce(job, count, spread)
    began = time.time()
    sample_every = settings["sample_every"] or None
    result = train(
        state,
        with_frozen(step, frozen),
        batches_from,
        workdir=job.workdir,
        total_steps=settings["steps"],
        checkpoint_every=settings["checkpoint_every"],
        log_every=settings["log_every"],
        max_to_keep=settings["keep_checkpoints"],
        sample_every=sample_every,
        sample_fn=_sampler(job, frozen, spread) if sample_every else None,
        config=_decisive(job),
        allow_config_change=allow_config_change,
        profile_steps=profile_steps,
    )
    _write_records(job)
    write_summary(job.workdir, config, job.data, result, time.time() - began)
    return result, job.tuning.weights(result.state.ema_params, frozen)


def _batches(job: Job, spread: Spread) -> Callable[[int], Iterator[LatentBatch]]:
    data, section = job.config["data"], job.config["fine_tune"]
    base = job.base
    on_device = base._replace(
        vae_params=jax.device_put(base.vae_params), text_params=jax.device_put(base.text_params)
    )
    with first_alone("latents"):
        latents, cut = make_latents(
            job.workdir,
            job.data.train,
            on_device,
            size=data["size"],
            square=data["square"],
            flip=data["flip"],
            dtype=section["cache_dtype"],
            batch_size=section["cache_batch"],
            shown=progress_bar,
        )
    if cut:
        logger.warning(
            "%d of %d captions are longer than the text encoder reads and were cut.",
            cut,
            len(latents.captions.texts) - 1,
        )
    stream = latent_batches(
        latents,
        job.planted,
        batch_size=job.config["train"]["batch_size"],
        seed=job.config["seed"],
        captions=section["captions"],
        positions=spread.positions,
    )

    def batches_from(step: int) -> Iterator[LatentBatch]:
        # Called once the loop has accepted this configuration: a refused one changes no file.
        _write_records(job)
        return map(spread.place, stream(step))

    return batches_from


def _decisive(job: Job) -> dict[str, Any]:
    """What decides the weights; the base by its content, not by where it lies."""
    config = job.config
    section = {**config["fine_tune"], "base": job.base_key}
    return {**sealed(config, job.data.label_space), "fine_tune": section}


def _write_records(job: Job) -> None:
    """Writes ``run.json`` and the prompt files, in process 0."""
    if not is_first():
        return
    rows = np.flatnonzero(job.planted.duplicated)
    duplicated = [
        {"row": int(row), "path": job.data.train[row].path, "shown": float(job.shown[row])}
        for row in rows
    ]
    write_run_file(
        job.workdir,
        job.config,
        job.data.label_space,
        data={**data_record(job.data), "duplicated": duplicated},
        base={"sha256": job.base_key, "info": _plain_info(job.base.info)},
        versions=versions(),
    )
    write_prompt_files(
        job.workdir, job.data.train, job.data.held_out, job.planted.duplicated, job.shown
    )


def _plain_info(info: Mapping[str, Any]) -> dict[str, Any]:
    names = ("kind", "model", "revision", "variant", "sha256")
    return {name: info[name] for name in names if info.get(name)}


def _sampler(job: Job, frozen: Params, spread: Spread) -> Callable[[Params, int], np.ndarray]:
    """Returns ``(ema_params, step) → images`` for the sample grids, duplicated rows first."""
    bundle = interop.make_bundle(job.base)
    order = np.argsort(~job.planted.duplicated, kind="stable")
    chosen: list[Record] = [
        job.data.train[row] for row in order[: job.config["train"]["num_samples"]]
    ]
    cond, null_cond = jax.device_get((bundle.encode(caption_rows(chosen)), bundle.null_cond))
    seed = job.config["seed"]
    shape = (len(chosen), *bundle.sample_shape)
    x_T = np.asarray(jax.random.normal(jax.random.key(seed + 7), shape))
    options = SamplingOptions(**job.config["sampling"])

    def run(params: Params, frozen: Params):
        return sample(
            bundle.eps_fn,
            job.tuning.weights(params, frozen),
            x_T,
            cond,
            null_cond,
            bundle.schedule,
            guidance_scale=options.guidance_scale,
            key=jax.random.key(seed + 8),
            **{k: v for k, v in options.static().items() if k != "guidance_scale"},
        ).x

    jitted = jax.jit(run, out_shardings=spread.whole)
    return lambda params, step: bundle.decode(np.asarray(jitted(params, frozen)))


def _announce(job: Job, count: int, spread: Spread) -> None:
    config, planted = job.config, job.planted
    share = job.shown[planted.duplicated].sum() / job.shown.sum()
    print(
        f"{len(job.data.train)} training images, {int(planted.duplicated.sum())} of them "
        f"repeated ({share:.0%} of an epoch); {len(job.data.held_out)} held out; "
        f"{count / 1e6:.2f} M trained parameters ({job.tuning.method}) on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{spread}; {config['train']['steps']} steps of "
        f"{config['train']['batch_size']}"
    )


def fine_tune_run(
    config: dict[str, Any],
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
    profile_steps: int = 0,
    force: bool = False,
) -> TrainResult:
    """Fine-tunes a base model, or goes on with it, and writes ``WORKDIR/pipeline``.

    The pipeline is the base with the moving average of the weights, adapters merged. What it makes
    by default has the size it was fine-tuned at.

    Args:
        config: A plain configuration with a ``fine_tune`` section, its ranges already checked.
        workdir: Folder of the run.
        allow_config_change: Go on although the configuration differs from the saved one.
        profile_steps: Steps to record, see :func:`memjax.training.loop.train`.
        force: Replace files in the folder that memjax did not write.

    Raises:
        ValueError: Base, data and configuration do not fit each other; nothing is compiled then.
    """
    tuning = check_fine_tune(config)
    own = [PIPELINE, PROMPTS, LATENTS, *([] if config["fine_tune"]["base"] else [BASE])]
    with held_run(workdir, own, force=force):
        return _fine_tune_run(config, Path(workdir), tuning, allow_config_change, profile_steps)


def _fine_tune_run(
    config: dict[str, Any],
    workdir: Path,
    tuning: Tuning,
    allow_config_change: bool,
    profile_steps: int,
) -> TrainResult:
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
            "base's autoencoder reads such images."
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
