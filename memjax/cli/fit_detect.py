"""The detection that `memjax fit --job=detect` compiles, given shapes alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memjax.cli.fit_networks import (
    SD_SAMPLING,
    labelled,
    placed,
    sd_cond,
    stable_diffusion,
    struct,
)
from memjax.cli.fit_program import Program, count
from memjax.core.mesh import announced, check_rows, row_shards, rows_over
from memjax.core.types import Params
from memjax.detectors import prepare
from memjax.interop.scheduler_settings import SPEC
from memjax.models.adapters import LinenEps
from memjax.runtime.batching import usual_size
from memjax.sampling import SamplingOptions
from memjax.training.sharding import sharding_from


def detect_program(
    config: Mapping[str, Any], devices: Sequence[Any], *, generations: int, steps: Any
) -> Program:
    """Returns a detection as `memjax detect` runs it: prompts spread over all devices.

    Args:
        config: The configuration the model was or will be trained with.
        devices: The devices; the section ``parallel`` is not read, weights lie whole on each.
        generations: Initial noises a prompt.
        steps: ``first``, K or ``all``.
    """
    spread = {**config["parallel"], "data": -1, "fsdp": 1, "tensor": 1}
    sharding = sharding_from(spread, devices)
    rows, whole = rows_over(sharding.mesh), sharding.whole
    eps_fn: Any
    usual: dict[str, Any]
    if "fine_tune" in config:
        unet, shapes = stable_diffusion(config)
        eps_fn, schedule, usual = LinenEps(unet), SPEC.build(), SD_SAMPLING
    else:
        network, shapes = labelled(config)
        eps_fn, schedule, usual = network.eps_fn, network.schedule, {}

    def cond_of(prompts: int) -> Any:
        if "fine_tune" in config:
            return sd_cond(prompts)
        labels = struct((prompts, len(network.module.label_sizes)), jnp.int32)
        return jax.eval_shape(network.encode_fn, shapes.params, labels)

    sampling = SamplingOptions(**{**usual, **config["sampling"]}).static()

    def measure(params: Params, x_T: Any, null: Any, cond: Any) -> Any:
        with announced(sharding.mesh):
            probe = prepare(eps_fn, params, x_T, null, schedule, steps=steps, **sampling)
            return probe(cond)

    measure_jit = jax.jit(measure)

    def arguments(batch: int) -> tuple[Any, tuple[Any, ...]]:
        check_rows(sharding.mesh, batch)
        noise = struct((generations, *shapes.sample_shape), jnp.float32, whole)
        return measure_jit, (
            placed(shapes.params, whole),
            noise,
            placed(cond_of(1), whole),
            placed(cond_of(batch), rows),
        )

    shards = row_shards(sharding.mesh)
    return Program(
        sharding,
        shapes.params,
        count(shapes.params),
        shapes.words,
        f"prompts at once, {generations} generations each",
        shards,
        usual_size(generations) * shards,
        arguments,
    )
