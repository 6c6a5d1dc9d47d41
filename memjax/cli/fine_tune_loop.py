"""The training of a fine-tuning whose base, data and settings are known."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax import interop
from memjax.core.types import Params
from memjax.data.planted_duplicates import Planted
from memjax.data.records import Record
from memjax.runs.outputs import progress_bar
from memjax.runs.train import data_record, optimizer_of, options_of, write_summary
from memjax.runtime.devices import keep_compiled
from memjax.runtime.hosts import first_alone, is_first
from memjax.runtime.provenance import versions
from memjax.sampling import SamplingOptions, sample
from memjax.training.data import RunData
from memjax.training.fine_tune import Tuning, make_fine_tune_step, training_unet, with_frozen
from memjax.training.latent_batches import LatentBatch, latent_batches
from memjax.training.latents import make_latents
from memjax.training.loop import TrainResult, train
from memjax.training.prompt_files import caption_rows, write_prompt_files
from memjax.training.run import write_run_file
from memjax.training.spread import Spread

logger = logging.getLogger("memjax")


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
    names = ("seed", "data", "model", "diffusion", "train")
    return {**{name: config[name] for name in names}, "fine_tune": section}


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
    """Returns ``(ema_params, step) → pictures`` for the sample grids, duplicated rows first."""
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
        f"{len(job.data.train)} training pictures, {int(planted.duplicated.sum())} of them "
        f"repeated ({share:.0%} of an epoch); {len(job.data.held_out)} held out; "
        f"{count / 1e6:.2f} M trained parameters ({job.tuning.method}) on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{spread}; {config['train']['steps']} steps of "
        f"{config['train']['batch_size']}"
    )
