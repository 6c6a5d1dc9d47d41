"""Fine-tuning a latent diffusion network: all its weights, or low-rank adapters beside them.

References:
    Rombach et al. 2022, arXiv 2112.10752, Eq. 2 (the loss on latents); Hu et al. 2021, arXiv
    2106.09685 (LoRA).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Params, TokenCond
from memjax.models.adapters import LinenEps
from memjax.models.lora import ATTENTION, init_lora, merge_lora
from memjax.models.unet.network import UNet
from memjax.training.latents import LatentBatch
from memjax.training.objective import TrainOptions
from memjax.training.sharding import Sharding
from memjax.training.step import StepFn, make_train_step

METHODS = ("unet", "lora")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is trained.

    Attributes:
        method: ``unet``, all its weights, or ``lora``, adapters beside frozen weights.
        rank: Rank of the adapters.
        alpha: Their strength: the update is ``(alpha / rank) A B``.
        targets: Regular expression for the kernels that get one, see
            :func:`memjax.models.lora.init_lora`.
    """

    method: str = "unet"
    rank: int = 8
    alpha: float = 8.0
    targets: str = ATTENTION

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"fine_tune.method is {self.method!r}, expected one of {METHODS}.")
        if self.rank < 1:
            raise ValueError(f"fine_tune.rank is {self.rank}, expected at least 1.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def start(self, key: Array, unet_params: Params) -> tuple[Params, Params]:
        """Returns ``(trained, frozen)`` at step 0; ``frozen`` is None where all is trained."""
        if self.method == "unet":
            return jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), unet_params), None
        adapters = init_lora(key, unet_params, self.rank, self.targets)
        return adapters, jax.tree.map(jnp.asarray, unet_params)

    def weights(self, trained: Params, frozen: Params) -> Params:
        """Returns the network's weights, adapters merged."""
        return trained if self.method == "unet" else merge_lora(frozen, trained, self.scale)


class Conditioned(NamedTuple):
    """Weights and a batch's text embeddings: what the two functions of the network are given."""

    unet: Params
    table: Float[Array, "m l d"]


class Examples(NamedTuple):
    """A batch after the draw of its latents."""

    image: Float[Array, "b h w c"]
    labels: Int[Array, "b 1"]
    row: Int[Array, " b"]


@dataclasses.dataclass(frozen=True)
class LatentInputs:
    """How a :class:`LatentBatch` becomes examples and weights.

    Attributes:
        scaling_factor: What latents are multiplied with before diffusion.
        tuning: What is trained.
    """

    scaling_factor: float
    tuning: Tuning

    def draw(self, key: Array, batch: LatentBatch) -> Examples:
        """Draws ``x0 = s (μ + σ ε)`` from the moments of each image."""
        mean, log_var = jnp.split(jnp.asarray(batch.moments, jnp.float32), 2, axis=-1)
        noise = jax.random.normal(key, mean.shape)
        latents = self.scaling_factor * (mean + jnp.exp(0.5 * log_var) * noise)
        return Examples(latents, jnp.asarray(batch.labels), jnp.asarray(batch.row))

    def params(self, trained: Params, frozen: Params, batch: LatentBatch) -> Conditioned:
        """Returns the weights in use and the batch's text embeddings."""
        return Conditioned(self.tuning.weights(trained, frozen), jnp.asarray(batch.table))


def text_condition(params: Conditioned, labels: Int[Array, "b 1"]) -> TokenCond:
    """Looks captions up in the batch's table; every token counts, padding too.

    .. note:: Stable Diffusion was trained with the padding in sight, so nothing is masked.
    """
    embeddings = params.table[labels[:, 0]]
    return TokenCond(embeddings, jnp.ones(embeddings.shape[:2], bool))


@dataclasses.dataclass(frozen=True)
class Denoise:
    """``(params, x_t, t, cond)`` → the raw prediction, from a :class:`Conditioned`."""

    unet: UNet

    def __call__(self, params: Conditioned, x_t: Array, t: Array, cond: TokenCond) -> Array:
        return LinenEps(self.unet)(params.unet, x_t, t, cond)


def training_unet(unet: UNet, *, dtype: str, remat: bool, remat_policy: str = "full") -> UNet:
    """Returns the network in the compute dtype of training; its weights stay float32.

    Raises:
        ValueError: If a name is unknown.
    """
    config = unet.config
    return UNet(dataclasses.replace(config, dtype=dtype, remat=remat, remat_policy=remat_policy))


def make_fine_tune_step(
    unet: UNet,
    schedule: NoiseSchedule,
    tx: optax.GradientTransformation,
    options: TrainOptions,
    tuning: Tuning,
    *,
    scaling_factor: float,
    learning_rate: optax.Schedule | None = None,
    sharding: Sharding | None = None,
    accumulate: int = 1,
) -> StepFn:
    """Returns the jitted ``step(state, batch, frozen) -> (state, metrics)``.

    Args:
        unet: Of :func:`training_unet`.
        schedule: The base model's noise schedule.
        tx: The optimizer.
        options: See :class:`TrainOptions`; the null caption is label 0.
        tuning: What is trained.
        scaling_factor: Of the autoencoder.
        learning_rate: Update count → rate, only to report it.
        sharding: See :func:`memjax.training.step.make_train_step`; ``frozen`` lies as
            ``sharding.of(frozen)`` says, and the batch's table is whole everywhere.
        accumulate: See :func:`memjax.training.step.make_train_step`.
    """
    return make_train_step(
        Denoise(unet),
        text_condition,
        schedule,
        tx,
        options,
        learning_rate=learning_rate,
        inputs=LatentInputs(scaling_factor, tuning),
        sharding=sharding,
        accumulate=accumulate,
    )


def with_frozen(step: StepFn, frozen: Params) -> StepFn:
    """Returns the step of two arguments; the frozen weights go in as an argument each time."""

    def run(state: Any, batch: LatentBatch) -> Any:
        return step(state, batch, frozen)

    return run
