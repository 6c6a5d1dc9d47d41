"""From a configuration to the task of ``memjax bench``: recipe, batch, noise, operation counts."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.condition import embeddings_of, repeat_cond, with_embeddings
from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull
from memjax.core.types import Array, Cond, EpsFn, Params
from memjax.data.labels.space import FINDINGS, LabelSpace, chexpert_label_space
from memjax.detectors import NoiseMagnitude
from memjax.runtime.flops import count_flops
from memjax.sampling import timesteps
from memjax.tools.bench.task import Settings, Task
from memjax.training.network import Network
from memjax.training.run import network_of

__all__ = [
    "CODES_PER_MARKER",
    "Settings",
    "Workload",
    "bench_label_space",
    "check_comparable",
    "detection_flops",
    "make_workload",
    "mitigation_flops",
]

CODES_PER_MARKER = 24  # as many as the phantoms need for some 500 images


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
    refined = config["model"].get("refine_channels", 0)
    wrong += [f"model.refine_channels={refined}"] * bool(refined)
    wrong += ["model.remat=True"] * bool(config["model"]["remat"])
    wrong += [f"sampling.stepper={stepper}"] * (stepper != "ddim")
    if wrong:
        raise ValueError(
            "bench compares plain float32 training and DDIM, but the configuration has "
            f"{', '.join(wrong)}: set them to None, 'float32', 0, False and 'ddim', for example "
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
    """Draws the inputs; no data set is needed, since speed does not depend on the images.

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


def detection_flops(
    eps_fn: EpsFn, params: Params, noise: Float[np.ndarray, "g *d"], row: Cond, prompts: int
) -> float:
    """Returns the operations of a first-step detection with shared initial noise.

    ``g`` forwards a prompt, and ``g`` for the unconditional half of all of them.

    Args:
        eps_fn: The network.
        params: Its weights.
        noise: Initial noises.
        row: The condition of one prompt.
        prompts: Prompts.
    """
    rows = repeat_cond(row, len(noise))
    return (prompts + 1) * count_flops(eps_fn, params, noise, _steps(noise), rows)


def mitigation_flops(
    eps_fn: EpsFn, params: Params, noise: Float[np.ndarray, "g *d"], row: Cond, iterations: int
) -> float:
    """Returns the operations of optimizing one prompt's embedding at the first step.

    A value and its gradient at each iteration, and the value once more at the end. By hand, since
    :func:`count_flops` takes the body of a ``while`` once. The unconditional half, once for all
    prompts, comes on top: as much as :func:`detection_flops` of no prompt.

    Args:
        eps_fn: The network.
        params: Its weights.
        noise: Initial noises.
        row: The condition of the prompt.
        iterations: Updates of the embedding.
    """

    def loss(e: Array, weights: Params) -> Array:
        rows = repeat_cond(with_embeddings(row, e), len(noise))
        net, null = Denoiser(eps_fn, weights), CachedNull(jnp.zeros_like(noise))
        return NoiseMagnitude()(net.at(noise, _steps(noise), rows, cached=null), net).mean()

    start = embeddings_of(row)
    value = count_flops(loss, start, params)
    return iterations * count_flops(jax.value_and_grad(loss), start, params) + value


def _steps(noise: Float[np.ndarray, "g *d"]) -> Array:
    return jnp.zeros((len(noise),), jnp.int32)
