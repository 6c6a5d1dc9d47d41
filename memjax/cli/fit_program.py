"""What `memjax fit` compiles: the step of a training, given shapes alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from memjax.cli.fit_networks import (
    SD_SCALE,
    Shapes,
    key_struct,
    labelled,
    placed,
    sd_cond,
    stable_diffusion,
    struct,
)
from memjax.cli.training import optimizer_of, options_of
from memjax.core.mesh import check_rows, row_shards, rows_over
from memjax.core.types import Params
from memjax.data.records import Batch
from memjax.interop.scheduler_settings import SPEC
from memjax.training.fine_tune import Tuning, make_fine_tune_step
from memjax.training.latent_batches import LatentBatch
from memjax.training.sharding import Sharding, sharding_from
from memjax.training.state import create_state
from memjax.training.step import make_train_step

_RECORD_ROWS = 250_000  # rows of the filter's record, where there is one: a large data set's


class Program(NamedTuple):
    """What is compiled, at any batch size.

    Attributes:
        sharding: Mesh and rules.
        state: Shapes of what the rules place.
        params: Number of trained weights.
        network: What network it is, in words.
        rows: What a row of the batch is, in words.
        unit: Batches are multiples of this.
        batch: The usual batch.
        arguments: Batch → jitted function and its arguments' shapes, placed.
    """

    sharding: Sharding
    state: PyTree
    params: int
    network: str
    rows: str
    unit: int
    batch: int
    arguments: Callable[[int], tuple[Any, tuple[Any, ...]]]


def count(params: Params) -> int:
    """Returns the number of weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _state(config: Mapping[str, Any], params: Params, tx: Any) -> PyTree:
    filtered = config["train"]["filter_threshold"] is not None
    return jax.eval_shape(
        lambda p, k: create_state(p, tx, k, num_rows=_RECORD_ROWS, filter=filtered),
        params,
        key_struct(),
    )


def train_program(config: Mapping[str, Any], devices: Sequence[Any]) -> Program:
    """Returns the training step of a configuration.

    Raises:
        ValueError: If the configuration does not fit itself or the devices.
    """
    if "fine_tune" in config:
        return _fine_tune_program(config, devices)
    network, shapes = labelled(config)
    sharding, accumulate = _sharding(config, devices)
    tx, rate = optimizer_of(config["train"])
    step = make_train_step(
        network.predict_fn,
        network.encode_fn,
        network.schedule,
        tx,
        options_of(config, config["diffusion"]["prediction"]),
        learning_rate=rate,
        sharding=sharding,
        accumulate=accumulate,
    )
    state = _state(config, shapes.params, tx)
    rows, slots = rows_over(sharding.mesh), len(network.module.label_sizes)

    def arguments(batch: int) -> tuple[Any, tuple[Any, ...]]:
        check_rows(sharding.mesh, batch, accumulate)
        examples = Batch(
            struct((batch, *shapes.sample_shape), jnp.float32, rows),
            struct((batch, slots), jnp.int32, rows),
            struct((batch,), jnp.int32, rows),
        )
        return step, (placed(state, sharding.of(state)), examples)

    return _training(config, sharding, state, shapes, accumulate, arguments)


def _fine_tune_program(config: Mapping[str, Any], devices: Sequence[Any]) -> Program:
    section = config["fine_tune"]
    unet, shapes = stable_diffusion(config)
    sharding, accumulate = _sharding(config, devices)
    tuning = Tuning(section["method"], section["rank"], section["alpha"], section["targets"])
    trained, frozen = jax.eval_shape(tuning.start, key_struct(), shapes.params)
    tx, rate = optimizer_of(config["train"])
    step = make_fine_tune_step(
        unet,
        SPEC.build(),
        tx,
        options_of(config, "eps"),
        tuning,
        scaling_factor=SD_SCALE,
        learning_rate=rate,
        sharding=sharding,
        accumulate=accumulate,
    )
    state, rows = _state(config, trained, tx), rows_over(sharding.mesh)
    height, width, channels = shapes.sample_shape

    def arguments(batch: int) -> tuple[Any, tuple[Any, ...]]:
        check_rows(sharding.mesh, batch, accumulate)
        examples = LatentBatch(
            struct((batch, height, width, 2 * channels), jnp.float32, rows),
            struct((batch, 1), jnp.int32, rows),
            struct((batch,), jnp.int32, rows),
            placed(sd_cond(batch + 1).embeddings, sharding.whole),
        )
        kept = placed(frozen, sharding.of(frozen))
        return step, (placed(state, sharding.of(state)), examples, kept)

    return _training(config, sharding, state, shapes, accumulate, arguments)


def _sharding(config: Mapping[str, Any], devices: Sequence[Any]) -> tuple[Sharding, int]:
    return sharding_from(config["parallel"], devices), config["parallel"]["accumulate"]


def _training(
    config: Mapping[str, Any],
    sharding: Sharding,
    state: PyTree,
    shapes: Shapes,
    accumulate: int,
    arguments: Callable[[int], tuple[Any, tuple[Any, ...]]],
) -> Program:
    return Program(
        sharding,
        state,
        count(state.params),
        shapes.words,
        "pictures a step",
        row_shards(sharding.mesh) * accumulate,
        config["train"]["batch_size"],
        arguments,
    )
