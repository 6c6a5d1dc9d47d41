"""What ``memjax bench`` gives both sides to do: the network's recipe, a batch, prompts, noise."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from memjax.data.labels import FINDINGS, LabelSpace, chexpert_label_space
from memjax.sampling import timesteps
from memjax.training.network import Network
from memjax.training.run import network_of

CODES_PER_MARKER = 24  # as many as the phantoms need for some 500 pictures


class Settings(NamedTuple):
    """How much is measured.

    Attributes:
        only: Names of the cases, in order.
        repeats: Timed repeats a case and side.
        steps: Training steps a repeat.
        prompts: Prompts a repeat of the detection.
        mitigate_prompts: Prompts a repeat of the mitigation.
    """

    only: tuple[str, ...] = ("train", "detect", "mitigate")
    repeats: int = 5
    steps: int = 8
    prompts: int = 32
    mitigate_prompts: int = 8


class Workload(NamedTuple):
    """The same task for both sides.

    Attributes:
        config: The plain configuration.
        settings: How much is measured.
        network: The memjax network (its recipe is the torch network's too).
        images: One training batch.
        labels: Its label ids.
        prompts: Label ids of the prompts.
        initial_noise: Initial noise, one per generation, shared by all prompts.
        first_t: Timestep of the first sampling step.
    """

    config: Mapping[str, Any]
    settings: Settings
    network: Network
    images: Float[np.ndarray, "b h w c"]
    labels: Int[np.ndarray, "b l"]
    prompts: Int[np.ndarray, "p l"]
    initial_noise: Float[np.ndarray, "g h w c"]
    first_t: int

    @property
    def iterations(self) -> int:
        """Updates of the embedding a prompt."""
        return self.config["audit"]["options"]["first_step_iters"]

    @property
    def embedding_rate(self) -> float:
        """AdamW's rate for the embedding."""
        return self.config["audit"]["options"]["first_step_learning_rate"]


def check_comparable(config: Mapping[str, Any]) -> None:
    """Refuses what the torch side has no counterpart of.

    Raises:
        ValueError: Naming the fields and how to set them.
    """
    train = config["train"]
    wrong = [f"train.{k}={train[k]}" for k in ("snr_gamma", "filter_threshold") if train[k]]
    wrong += [f"model.dtype={config['model']['dtype']}"] * (config["model"]["dtype"] != "float32")
    wrong += ["model.remat=True"] * bool(config["model"]["remat"])
    if wrong:
        raise ValueError(
            f"bench compares plain float32 training, but the configuration has {', '.join(wrong)}: "
            "set them to None, 'float32' and False, for example --config.model.dtype=float32."
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
    grid = timesteps(
        network.schedule.num_timesteps,
        sampling["num_steps"],
        sampling["spacing"],
        sampling["steps_offset"],
    )
    return Workload(
        config,
        settings,
        network,
        np.clip(0.5 * normal(batch), -1.0, 1.0),
        ids(batch),
        ids(max(settings.prompts, settings.mitigate_prompts)),
        normal(config["audit"]["options"]["generations"]),
        int(grid[0]),
    )
