"""The programs that `memjax fit` compiles, given shapes alone: a training step, a detection.

The networks are shapes of their weights; no number is drawn and no file is read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from memjax.core.mesh import announced, check_rows, row_shards, rows_over
from memjax.core.types import Params, TokenCond
from memjax.data.labels.space import chexpert_label_space
from memjax.data.records import Batch
from memjax.detectors import prepare
from memjax.interop.stable_diffusion.scheduler_settings import SPEC
from memjax.models.adapters import LinenEps
from memjax.models.unet.network import UNet, UNetConfig
from memjax.models.vae import VAEConfig
from memjax.runs.train import optimizer_of, options_of
from memjax.runtime.batching import usual_size
from memjax.sampling import SamplingOptions
from memjax.training.fine_tune import Tuning, make_fine_tune_step, training_unet
from memjax.training.latents import LatentBatch
from memjax.training.network import Network
from memjax.training.run import network_of
from memjax.training.sharding import Sharding, sharding_from
from memjax.training.state import create_state
from memjax.training.step import make_train_step

# A fine-tuning's network is in its base's files; fit knows Stable Diffusion 1's by heart.
SD_SCALE = VAEConfig().scaling_factor
SD_SAMPLING = {"clip_x0": None, "steps_offset": 1, "set_alpha_to_one": False}
_SD_TOKENS, _SD_FOLD = 77, 8
_RECORD_ROWS = 250_000  # rows of the filter's record, where there is one: a large data set's


class Shapes(NamedTuple):
    """Shapes of a network's weights and of one example, and what it is in words."""

    params: Params
    sample_shape: tuple[int, ...]
    words: str


def struct(shape: Sequence[int], dtype: Any, sharding: NamedSharding | None = None) -> Any:
    """Returns the shape of an array, and its place."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Returns shapes with their place; ``shardings`` is one or a tree of them."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda a, s: struct(a.shape, a.dtype, s), tree, shardings)


def key_struct() -> Any:
    """Returns the shape of a typed key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def sd_cond(rows: int) -> TokenCond:
    """Returns the shapes of so many encoded captions."""
    width = UNetConfig().cross_attention_dim
    return TokenCond(
        struct((rows, _SD_TOKENS, width), jnp.float32), struct((rows, _SD_TOKENS), jnp.bool_)
    )


def labelled(config: Mapping[str, Any]) -> tuple[Network, Shapes]:
    """Returns the network of a configuration with labels, for CheXpert's label space.

    Raises:
        ValueError: If a value does not fit, naming it.
    """
    network = network_of(config, chexpert_label_space())
    shape = network.module.sample_shape
    labels = struct((1, len(network.module.label_sizes)), jnp.int32)
    example = struct((1, *shape), jnp.float32), struct((1,), jnp.int32), labels
    params = jax.eval_shape(network.module.init, key_struct(), *example)["params"]
    words = f"the configuration's U-Net in {config['model']['dtype']}, CheXpert's labels"
    return network, Shapes(params, shape, words)


def stable_diffusion(config: Mapping[str, Any]) -> tuple[UNet, Shapes]:
    """Returns the network of a fine-tuning of Stable Diffusion 1, its base's files unread.

    Raises:
        ValueError: If the size of the images does not fit.
    """
    unet = training_unet(UNet(UNetConfig()), **config["model"])
    side = config["data"]["size"] // _SD_FOLD
    unet.config.validate(side)
    shape = (side, side, unet.config.in_channels)
    example = struct((1, *shape), jnp.float32), struct((1,), jnp.int32), sd_cond(1)
    params = jax.eval_shape(unet.init, key_struct(), *example)["params"]
    words = f"Stable Diffusion 1's U-Net in {unet.config.dtype} (the base's files are not read)"
    return unet, Shapes(params, shape, words)


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
        "images a step",
        row_shards(sharding.mesh) * accumulate,
        config["train"]["batch_size"],
        arguments,
    )


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
