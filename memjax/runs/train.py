"""From a configuration to a trained run: the configuration is unpacked here, once."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.core.types import Params
from memjax.data.augmentation import Augmentation
from memjax.data.dataset import encode_records
from memjax.data.labels.space import chexpert_label_space
from memjax.data.planted_duplicates import Planted, plant_duplicates
from memjax.data.records import Batch, LabelSpace
from memjax.evaluate.similarity.ladder import check_rungs
from memjax.runs.options import AuditOptions
from memjax.runs.outputs import held_run
from memjax.runtime.cores import require_memory
from memjax.runtime.devices import keep_compiled, peak_flops
from memjax.runtime.flops import flops_of
from memjax.runtime.hosts import first_alone, is_first
from memjax.runtime.json import read_summary, write_json
from memjax.runtime.provenance import versions
from memjax.sampling import SamplingOptions, make_stepper, sample, timesteps
from memjax.training.data import RunData, batches_of, prepare_data
from memjax.training.loop import Speed, TrainResult, train
from memjax.training.network import Network
from memjax.training.optimizer import make_learning_rate, make_optimizer
from memjax.training.placement import Spread
from memjax.training.run import network_of, slots_to_json, write_run_file
from memjax.training.seal import LABELS
from memjax.training.step import TrainOptions, make_train_step

logging.basicConfig(level=logging.WARNING, format="memjax: %(message)s", stream=sys.stderr)
logging.getLogger("memjax").setLevel(logging.INFO)

# Kinds of data whose images are films of patients.
FILMS = ("phantoms", "chexpert", "nih", "mimic")
# What decides the weights; sampling and audit may change on an existing run.
_TRAINED = ("seed", "data", "model", "diffusion", "train")


def data_of(config: Mapping[str, Any], workdir: Path) -> RunData:
    """Reads the data a configuration describes; process 0 first, which may draw them."""
    with first_alone("data"):
        return prepare_data(workdir, seed=config["seed"], **config["data"])


def planted_of(config: Mapping[str, Any], data: RunData) -> Planted:
    """Decides how often a fine-tuning shows each training row."""
    section = config["fine_tune"]
    return plant_duplicates(
        data.train,
        data.root,
        seed=config["seed"],
        memorized=section["memorized"],
        repeats=section["repeats"],
        others_ratio=section["others_ratio"],
        fraction=config["data"]["duplicate_fraction"],
        factor=config["data"]["duplicate_factor"],
    )


def optimizer_of(train_config: Mapping[str, Any]):
    """Returns the optimizer a configuration describes, and its learning rate by update."""
    arguments = {
        "warmup_steps": train_config["warmup_steps"],
        "total_steps": train_config["steps"],
        "schedule": train_config["lr_schedule"],
    }
    rate = make_learning_rate(train_config["learning_rate"], **arguments)
    tx = make_optimizer(
        train_config["learning_rate"],
        weight_decay=train_config["weight_decay"],
        clip_norm=train_config["clip_norm"],
        **arguments,
    )
    return tx, rate


def sealed(config: Mapping[str, Any], label_space: LabelSpace) -> dict[str, Any]:
    """Returns what checkpoints hold: labels, and what of a configuration decides the weights."""
    return {**{name: config[name] for name in _TRAINED}, LABELS: slots_to_json(label_space)}


def options_of(config: Mapping[str, Any], prediction: str) -> TrainOptions:
    """Unpacks what of ``config.train`` a step needs; ``prediction`` is ``eps`` or ``v``."""
    names = (
        "cond_dropout",
        "ema_decay",
        "ema_warmup",
        "snr_gamma",
        "filter_threshold",
        "filter_mode",
        "filter_rms",
        "filter_detector",
    )
    return TrainOptions(
        prediction=prediction,
        **{name: config["train"][name] for name in names},
    )


def _sampler(config: Mapping[str, Any], network: Network, data: RunData, spread: Spread):
    """Returns ``(ema_params, step) → images`` for the sample grids."""
    chosen, count = config["sampling"], config["train"]["num_samples"]
    dropout = config["train"]["cond_dropout"]
    labels = np.asarray(encode_records(data.train[:count], data.label_space))
    if dropout >= 1.0:
        labels = np.zeros_like(labels)
    shape = (len(labels), *network.module.sample_shape)
    x_T = np.asarray(jax.random.normal(jax.random.key(config["seed"] + 7), shape))

    def run(params: Params):
        null = network.encode_fn(params, labels[:1] * 0) if 0.0 < dropout < 1.0 else None
        return sample(
            network.eps_fn,
            params,
            x_T,
            network.encode_fn(params, labels),
            null,
            network.schedule,
            guidance_scale=chosen["guidance_scale"],
            num_steps=chosen["num_steps"],
            stepper=make_stepper(chosen["stepper"]),
            spacing=chosen["spacing"],
            clip_x0=chosen["clip_x0"],
            key=jax.random.key(config["seed"] + 8),
        ).x

    jitted = jax.jit(run, out_shardings=spread.whole)
    return lambda params, step: np.clip(np.asarray(jitted(params)), -1.0, 1.0)


def speed_of(step: Any, state: Any, batch: Any, dtype: str) -> Speed:
    """Counts what a step computes, and looks up what the devices can.

    Args:
        step: The jitted step; its trace is kept for the first call.
        state: The state.
        batch: Arrays or their shapes, the global batch's.
        dtype: Type the network computes in.
    """
    images = jax.tree.leaves(batch)[0].shape[0]
    return Speed(flops_of(step.trace(state, batch)) / images, peak_flops(dtype))


def _batch_shapes(config: Mapping[str, Any], data: RunData) -> Batch:
    size, channels = config["data"]["size"], config["data"]["channels"]
    rows = (config["train"]["batch_size"],)
    tokens = data.label_space.num_tokens
    return Batch(
        jax.ShapeDtypeStruct((*rows, size, size, channels), np.float32),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((*rows, tokens), np.int32),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct(rows, np.int32),  # type: ignore[arg-type]
    )


def train_run(
    config: dict[str, Any],
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
    profile_steps: int = 0,
    force: bool = False,
) -> TrainResult:
    """Trains a run from its configuration, or goes on with it.

    Args:
        config: A plain configuration (see ``configs/``), already checked.
        workdir: Folder of the run.
        allow_config_change: Go on although the configuration differs from the saved one.
        profile_steps: Steps to record, see :func:`memjax.training.loop.train`.
        force: Replace files in the folder that memjax did not write.
    """
    check_sections(config)
    with held_run(workdir, force=force):
        return _train_run(config, Path(workdir), allow_config_change, profile_steps)


def _train_run(
    config: dict[str, Any], workdir: Path, allow_config_change: bool, profile_steps: int
) -> TrainResult:
    keep_compiled()
    spread = Spread.of(config)
    section, batch = config["data"], config["train"]["batch_size"]
    pixels = section["channels"] * section["size"] ** 2
    require_memory(f"train.batch_size={batch}", 4 * batch * pixels // jax.process_count())
    data = data_of(config, workdir)
    network = network_of(config, data.label_space)
    options = options_of(config, config["diffusion"]["prediction"])
    train_config = config["train"]
    tx, rate = optimizer_of(train_config)
    key = jax.random.key(config["seed"])
    params = network.module.init_params(jax.random.fold_in(key, 0))
    if network.module.unet.dtype != "float32":
        logging.getLogger("memjax").info("computing in %s", network.module.unet.dtype)
    state = spread.state(
        params,
        tx,
        jax.random.fold_in(key, 1),
        num_rows=len(data.train),
        filter=options.filter_threshold is not None,
    )
    step = make_train_step(
        network.predict_fn,
        network.encode_fn,
        network.schedule,
        tx,
        options,
        learning_rate=rate,
        sharding=spread.sharding,
        accumulate=spread.accumulate,
    )
    _announce(config, data, params, spread)
    batches_from = batches_of(
        data,
        batch_size=train_config["batch_size"],
        seed=config["seed"],
        positions=spread.positions,
        **config["data"],
    )

    def batches(start: int) -> Iterator[Batch]:
        # Called once the loop has accepted this configuration: a refused one changes no file.
        _write_run(workdir, config, data)
        return map(spread.place, batches_from(start))

    began = time.time()
    sample_every = train_config["sample_every"] or None
    result = train(
        state,
        step,
        batches,
        workdir=workdir,
        total_steps=train_config["steps"],
        checkpoint_every=train_config["checkpoint_every"],
        log_every=train_config["log_every"],
        max_to_keep=train_config["keep_checkpoints"],
        sample_every=sample_every,
        sample_fn=_sampler(config, network, data, spread) if sample_every else None,
        config=sealed(config, data.label_space),
        allow_config_change=allow_config_change,
        profile_steps=profile_steps,
        speed=speed_of(step, state, _batch_shapes(config, data), network.module.unet.dtype),
    )
    if result.start_step == train_config["steps"]:  # nothing was left to do
        _write_run(workdir, config, data)
    write_summary(workdir, config, data, result, time.time() - began)
    return result


def check_sections(config: Mapping[str, Any]) -> None:
    """Builds whatever a configuration describes, data apart, before anything is read.

    Raises:
        ValueError: If a value does not fit, naming it.
    """
    network_of(config, chexpert_label_space())
    Augmentation(**config["data"].get("augment", {}))
    options_of(config, config["diffusion"]["prediction"])
    optimizer_of(config["train"])
    SamplingOptions(**config["sampling"]).static()
    sampling = config["sampling"]
    timesteps(
        config["diffusion"]["num_timesteps"],
        sampling["num_steps"],
        sampling["spacing"],
        sampling["steps_offset"],
    )
    audit_options(config)
    check_rungs(config["audit"]["rungs"])


def audit_options(config: Mapping[str, Any]) -> AuditOptions:
    """Unpacks ``config.audit.options``."""
    section = config["audit"]["options"]
    values: dict[str, Any]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
    return AuditOptions(**values)


def _write_run(workdir: Path, config: Mapping[str, Any], data: RunData) -> None:
    if not is_first():
        return
    write_run_file(workdir, config, data.label_space, data=data_record(data), versions=versions())


def data_record(data: RunData) -> dict[str, Any]:
    """Returns what ``run.json`` says about the data."""
    return {
        "root": str(data.root),
        "train": len(data.train),
        "held_out": len(data.held_out),
        "problems": data.problems.counts,
        "examples": data.problems.examples,
    }


def _announce(config: Mapping[str, Any], data: RunData, params: Params, spread: Spread) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    patients = len({r.patient for r in data.train if r.patient})
    whose = f" of {patients} patients" if config["data"]["kind"] in FILMS else ""
    print(
        f"{len(data.train)} training images{whose}, {len(data.held_out)} held "
        f"out; {count / 1e6:.2f} M parameters on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{spread}; {config['train']['steps']} steps of "
        f"{config['train']['batch_size']}"
    )


def _where_time_went(result: TrainResult) -> dict[str, Any]:
    """Returns mean MFU and the seconds of each part over the rows of this call."""
    rows = [r for r in result.history if r.get("step", 0) > result.start_step and "seconds" in r]
    names = [n for n in (rows[0] if rows else ()) if n.endswith("_seconds")]
    spent = {name: round(sum(row.get(name) or 0.0 for row in rows), 3) for name in names}
    rates = [row["mfu"] for row in rows if row.get("mfu")]
    return {"time": spent, "mfu": float(np.median(rates)) if rates else None}


def write_summary(
    workdir: Path, config: Mapping[str, Any], data: RunData, result: TrainResult, seconds: float
) -> None:
    """Writes ``training.json`` and, with the filter, ``filtered_rows.json``; in process 0."""
    if not is_first():
        return
    previous = workdir / "training.json"
    spent = 0.0
    speed: float | None = result.images_per_second
    if result.start_step and previous.is_file():
        before = read_summary(previous)
        if isinstance(before.get("seconds"), int | float):
            spent = float(before["seconds"])
        if result.start_step == int(result.state.step):  # no step was made: the speed stands
            speed = before.get("images_per_second")
    summary = {
        "steps": int(result.state.step),
        "seconds": spent + seconds,
        "images_per_second": speed,
        "final_loss": next(
            (row["loss"] for row in reversed(result.history) if "loss" in row), None
        ),
        "skipped_steps": int(result.state.total_skipped),
        "compile_seconds": round(result.compile_seconds, 3),
        **_where_time_went(result),
        "cond_dropout": config["train"]["cond_dropout"],
    }
    write_json(previous, summary)
    if result.state.filter is not None:
        record = jax.device_get(result.state.filter)
        rows = [
            {
                "row": int(i),
                "path": data.train[i].path,
                "seen": int(record.seen[i]),
                "flagged": int(record.flagged[i]),
                "magnitude_ema": float(record.magnitude_ema[i]),
            }
            for i in np.argsort(-record.flagged, kind="stable")
        ]
        write_json(workdir / "filtered_rows.json", rows, indent=None)
