"""From a configuration to the task of ``memjax bench``: the network's recipe, a batch, noise."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from memjax.data.labels import FINDINGS, LabelSpace, chexpert_label_space
from memjax.sampling import timesteps
from memjax.tools.bench.task import Settings, Task
from memjax.training.network import Network
from memjax.training.run import network_of

__all__ = ["Settings", "Workload", "bench_label_space", "check_comparable", "make_workload"]

CODES_PER_MARKER = 24  # as many as the phantoms need for some 500 pictures


class Workload(NamedTuple):
    """A task with the memjax network that does it.

    Attributes:
        task: What both sides do.
        network: The memjax network; its recipe is the torch network's too.
    """

    task: Task
    network: Network


def check_comparable(config: Mapping[str, Any]) -> None:
    """Refuses what the torch side has no counterpart of.

    Raises:
        ValueError: Naming the fields and how to set them.
    """
    train, stepper = config["train"], config["sampling"]["stepper"]
    wrong = [f"train.{k}={train[k]}" for k in ("snr_gamma", "filter_threshold") if train[k]]
    wrong += [f"model.dtype={config['model']['dtype']}"] * (config["model"]["dtype"] != "float32")
    wrong += ["model.remat=True"] * bool(config["model"]["remat"])
    wrong += [f"sampling.stepper={stepper}"] * (stepper != "ddim")
    if wrong:
        raise ValueError(
            "bench compares plain float32 training and DDIM, but the configuration has "
            f"{', '.join(wrong)}: set them to None, 'float32', False and 'ddim', for example "
            "--config.model.dtype=float32."
        )


def bench_label_space(config: Mapping[str, Any]) -> LabelSpace:
    """Returns the configuration's label space, with invented marker codes."""
    data = config["data"]
    return chexpert_label_space(
        tuple(data["findings"]) or FINDINGS,
        num_markers=data["num_markers"],
        marker_vocabulary=[f"{i:02d}" for i in range(CODES_PER_MARKER)],
        age_bin=data["age_bin"],
        view=data["use_view"],
        sex=data["use_sex"],
        age=data["use_age"],
    )


def make_workload(config: Mapping[str, Any], settings: Settings) -> Workload:
    """Draws the inputs; no data set is needed, since speed does not depend on the pictures.

    The last convolution starts at random instead of zero, so that no gradient vanishes.
    """
    check_comparable(config)
    config = {**config, "model": {**config["model"], "zero_init_out": False}}
    space = bench_label_space(config)
    network = network_of(config, space)
    rng = np.random.default_rng(config["seed"])
    shape = network.module.sample_shape

    def normal(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, *shape)).astype(np.float32)

    def ids(rows: int) -> np.ndarray:
        columns = [rng.integers(1, size, rows) for size in space.sizes]
        return np.stack(columns, axis=1).astype(np.int32)

    batch, sampling = config["train"]["batch_size"], config["sampling"]
    task = Task(
        config=config,
        settings=settings,
        unet=SimpleNamespace(**dataclasses.asdict(network.module.unet)),
        label_sizes=tuple(space.sizes),
        images=np.clip(0.5 * normal(batch), -1.0, 1.0),
        labels=ids(batch),
        prompts=ids(max(settings.prompts, settings.mitigate_prompts, settings.samples)),
        initial_noise=normal(config["audit"]["options"]["generations"]),
        sample_noise=normal(settings.samples),
        grid=timesteps(
            network.schedule.num_timesteps,
            sampling["num_steps"],
            sampling["spacing"],
            sampling["steps_offset"],
        ),
        signals=np.array(network.schedule.sqrt_alphas_bar),
        sigmas=np.array(network.schedule.sigmas),
    )
    return Workload(task, network)
