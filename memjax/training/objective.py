"""From a batch to a loss: noise, condition dropout, weights, and the memorisation filter."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from memjax.core.guidance import broadcast_cond
from memjax.core.process import q_sample
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Params
from memjax.training import memorization_filter as mf
from memjax.training.losses import (
    denoising_target,
    drop_condition,
    per_example_loss,
    snr_weights,
)
from memjax.training.options import TrainOptions

DenoiseFn = Callable[[Params, Array, Array, Cond], Array]
EncodeFn = Callable[[Params, Array], Cond]


class TrainBatch(Protocol):
    """What a step reads of a batch; any pytree with these attributes will do."""

    image: Float[Array, "b *d"]
    labels: Int[Array, "b l"]
    row: Int[Array, " b"]


class Noised(NamedTuple):
    """A batch after the forward process.

    Attributes:
        x_t: Noised images.
        t: Their timesteps.
        target: What the network should output.
        labels: Labels after condition dropout.
        dropped: Which rows lost their condition.
    """

    x_t: Float[Array, "b *d"]
    t: Int[Array, " b"]
    target: Float[Array, "b *d"]
    labels: Int[Array, "b l"]
    dropped: Bool[Array, " b"]


class Judged(NamedTuple):
    """What the filter decided: each example's ``m``, 0 where dropped, and its weight."""

    magnitude: Float[Array, " b"]
    weights: Float[Array, " b"]


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The training objective of a network given as two pure functions."""

    denoise_fn: DenoiseFn
    encode_fn: EncodeFn
    schedule: NoiseSchedule
    options: TrainOptions

    def noise(self, key: Array, batch: TrainBatch) -> Noised:
        """Draws ``t ~ U{0..T−1}``, ``ε ~ N(0, I)`` and the dropped conditions of a batch."""
        t_key, eps_key, drop_key = jax.random.split(key, 3)
        options, schedule = self.options, self.schedule
        x0 = jnp.asarray(batch.image, jnp.float32)
        t = jax.random.randint(t_key, x0.shape[:1], 0, schedule.num_timesteps)
        eps = jax.random.normal(eps_key, x0.shape)
        labels, dropped = drop_condition(
            drop_key, jnp.asarray(batch.labels), options.cond_dropout, options.null_label
        )
        target = denoising_target(schedule, x0, t, eps, options.prediction)
        return Noised(q_sample(schedule, x0, t, eps), t, target, labels, dropped)

    def null_output(self, params: Params, noised: Noised) -> Float[Array, "b *d"] | None:
        """Returns the prediction without condition, without gradient; None without the filter."""
        if self.options.filter_threshold is None:
            return None
        params = jax.lax.stop_gradient(params)
        null_labels = jnp.full_like(noised.labels[:1], self.options.null_label)
        cond = broadcast_cond(self.encode_fn(params, null_labels), noised.labels.shape[0])
        return self.denoise_fn(params, noised.x_t, noised.t, cond)

    def loss(
        self, params: Params, noised: Noised, null_output: Float[Array, "b *d"] | None
    ) -> tuple[Float[Array, ""], Judged | None]:
        """Returns the mean loss and, with the filter, its decisions."""
        losses, judged = self._losses(params, noised, null_output)
        if judged is None:
            return jnp.mean(losses), None
        return mf.masked_mean(losses, judged.weights, self.options.filter_mode), judged

    def part(
        self, params: Params, noised: Noised, null_output: Float[Array, "b *d"] | None
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Judged | None]]:
        """Returns the sum that :meth:`loss` divides, what it divides by, and the decisions.

        Sums and counts of the parts of a batch add up to those of the batch.
        """
        losses, judged = self._losses(params, noised, null_output)
        if judged is None:
            return jnp.sum(losses), (jnp.float32(losses.shape[0]), None)
        kept = self.options.filter_mode == "kept"
        count = judged.weights.sum() if kept else jnp.float32(losses.shape[0])
        return jnp.sum(judged.weights * losses), (count, judged)

    def _losses(
        self, params: Params, noised: Noised, null_output: Float[Array, "b *d"] | None
    ) -> tuple[Float[Array, " b"], Judged | None]:
        options = self.options
        cond = self.encode_fn(params, noised.labels)
        output = self.denoise_fn(params, noised.x_t, noised.t, cond)
        losses = per_example_loss(output, noised.target)
        if options.snr_gamma is not None:
            losses *= snr_weights(self.schedule, noised.t, options.snr_gamma, options.prediction)
        if null_output is None:
            return losses, None
        return losses, self.judge(jax.lax.stop_gradient(output), null_output, noised)

    def judge(
        self, output: Float[Array, "b *d"], null_output: Float[Array, "b *d"], noised: Noised
    ) -> Judged:
        """Measures each example's guidance and decides which stay."""
        options = self.options
        magnitude = mf.guidance_magnitude(
            output,
            null_output,
            self.schedule,
            noised.t,
            prediction=options.prediction,
            rms=options.filter_rms,
        )
        magnitude = jnp.where(noised.dropped, 0.0, magnitude)
        threshold = float("inf") if options.filter_threshold is None else options.filter_threshold
        tau = mf.threshold_at(threshold, noised.t, self.schedule.num_timesteps)
        return Judged(magnitude, mf.filter_weights(magnitude, tau, noised.dropped))
