"""From a batch to a loss: noise, condition dropout, target, weights, and memorization filter."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import broadcast_cond
from memjax.core.process import PREDICTIONS, eps_from_v, q_sample, v_from_eps
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Detector, Params, State
from memjax.detectors import DETECTORS, NoiseMagnitude
from memjax.training import memorization_filter as mf
from memjax.training.memorization_filter import MODES

DenoiseFn = Callable[[Params, Array, Array, Cond], Array]
EncodeFn = Callable[[Params, Array], Cond]


def check_prediction(prediction: str) -> None:
    """Raises ValueError unless ``prediction`` is ``eps`` or ``v``."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}, expected one of {PREDICTIONS}.")


def denoising_target(
    schedule: NoiseSchedule,
    x0: Float[Array, "b *d"],
    t: Int[Array, " b"],
    eps: Float[Array, "b *d"],
    prediction: str = "eps",
) -> Float[Array, "b *d"]:
    """Returns what the network should output: ``ε``, or ``v = √ᾱ_t ε − √(1−ᾱ_t) x0``."""
    check_prediction(prediction)
    return eps if prediction == "eps" else v_from_eps(schedule, x0, t, eps)


def per_example_loss(
    output: Float[Array, "b *d"], target: Float[Array, "b *d"]
) -> Float[Array, " b"]:
    """Returns the mean squared error of each example over its non-batch axes, in float32."""
    error = output.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(error.reshape(error.shape[0], -1)), axis=1)


def snr_weights(
    schedule: NoiseSchedule, t: Int[Array, " b"], gamma: float, prediction: str = "eps"
) -> Float[Array, " b"]:
    """Returns min-SNR loss weights: ``min(snr, γ)/snr`` for ε, ``min(snr, γ)/(snr + 1)`` for v.

    References:
        Hang et al. 2023, arXiv 2303.09556, Eq. 9 and §3.4.
    """
    check_prediction(prediction)
    alphas_bar = jnp.asarray(schedule.alphas_bar)[t]
    snr = alphas_bar / jnp.square(jnp.asarray(schedule.sigmas)[t])
    return jnp.minimum(snr, gamma) / (snr if prediction == "eps" else snr + 1.0)


def drop_condition(
    key: Array, labels: Int[Array, "b l"], rate: float, null: int = 0
) -> tuple[Int[Array, "b l"], Bool[Array, " b"]]:
    """Replaces whole label rows by the null condition with probability ``rate``.

    Args:
        key: A typed key.
        labels: Label ids, one row an example.
        rate: In [0, 1]; 0 trains without a null condition, 1 trains an unconditional network.
        null: The id of every slot's null.

    Returns:
        The labels, and which rows were dropped.

    References:
        Ho and Salimans 2022, arXiv 2207.12598, Algorithm 1, line 3.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"condition dropout is {rate}, expected a rate in [0, 1].")
    dropped = jax.random.uniform(key, labels.shape[:1]) < rate
    return jnp.where(dropped[:, None], jnp.asarray(null, labels.dtype), labels), dropped


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What does not change during a run.

    Attributes:
        prediction: What the network outputs, ``eps`` or ``v``.
        cond_dropout: Probability that an example's condition is dropped; 0 = no null condition
            is trained, 1 = unconditional.
        ema_decay: Decay of the weights' moving average.
        ema_warmup: Use ``min(decay, (1 + n)/(10 + n))`` after ``n`` updates.
        snr_gamma: γ of min-SNR loss weights, or None for none.
        filter_threshold: τ of the memorization filter: None (off), a number, or one number per
            equal bucket of timesteps, cleanest first.
        filter_mode: ``kept`` (mean over the kept) or ``all`` (sum of the kept over the batch).
        filter_rms: Compare the magnitude, or another norm, divided by ``√d`` with τ.
        filter_detector: What is compared with τ: any detector of states, see
            :data:`memjax.detectors.DETECTORS`.
        filter_decay: Decay of the per-row moving average of the magnitude.
        null_label: The id of every slot's null.
    """

    prediction: str = "eps"
    cond_dropout: float = 0.1
    ema_decay: float = 0.999
    ema_warmup: bool = True
    snr_gamma: float | None = None
    filter_threshold: float | tuple[float, ...] | None = None
    filter_mode: str = "kept"
    filter_rms: bool = False
    filter_detector: str = "noise_magnitude"
    filter_decay: float = 0.9
    null_label: int = 0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        for name in ("cond_dropout", "ema_decay", "filter_decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, expected a number in [0, 1].")
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise ValueError(f"snr_gamma is {self.snr_gamma}, expected a positive number or None.")
        if self.filter_mode not in MODES:
            raise ValueError(f"filter_mode is {self.filter_mode!r}, expected one of {MODES}.")
        if isinstance(self.filter_threshold, list):
            object.__setattr__(self, "filter_threshold", tuple(self.filter_threshold))
        if self.filter_threshold == ():
            raise ValueError("filter_threshold is empty, expected a number, numbers or None.")
        detector = self.detector
        if detector.domain != "state" or "maps" in detector.needs:
            raise ValueError(
                f"filter_detector is {self.filter_detector!r}, expected a detector of single "
                "states without attention maps, such as noise_magnitude."
            )

    @property
    def detector(self) -> Detector:
        """What the filter measures."""
        return DETECTORS.parse(self.filter_detector)


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
        fixed = jax.lax.stop_gradient((output, params, cond))
        return losses, self.judge(fixed[0], null_output, noised, *fixed[1:])

    def judge(
        self,
        output: Float[Array, "b *d"],
        null_output: Float[Array, "b *d"],
        noised: Noised,
        params: Params | None = None,
        cond: Cond | None = None,
    ) -> Judged:
        """Measures each example and decides which stay.

        Args:
            output: The network's raw prediction with the condition.
            null_output: The same without.
            noised: The batch.
            params: The network's weights, for detectors other than the magnitude.
            cond: The batch's conditions, likewise.
        """
        options = self.options
        if isinstance(options.detector, NoiseMagnitude):
            magnitude = mf.guidance_magnitude(
                output,
                null_output,
                self.schedule,
                noised.t,
                prediction=options.prediction,
                rms=options.filter_rms or options.detector.rms,
            )
        else:
            magnitude = self._statistic(output, null_output, noised, params, cond)
        magnitude = jnp.where(noised.dropped, 0.0, magnitude)
        threshold = float("inf") if options.filter_threshold is None else options.filter_threshold
        tau = mf.threshold_at(threshold, noised.t, self.schedule.num_timesteps)
        return Judged(magnitude, mf.filter_weights(magnitude, tau, noised.dropped))

    def _statistic(self, output, null_output, noised: Noised, params, cond) -> Float[Array, " b"]:
        """Returns any other detector at the batch's states, in units of ε."""

        def eps(x_t: Array, t: Array, prediction: Array) -> Array:
            if self.options.prediction == "eps":
                return prediction
            return eps_from_v(self.schedule, x_t, t, prediction)

        def eps_fn(params: Params, x_t: Array, t: Array, cond: Cond) -> Array:
            return eps(x_t, t, self.denoise_fn(params, x_t, t, cond))

        null_labels = jnp.full_like(noised.labels[:1], self.options.null_label)
        null = jax.lax.stop_gradient(self.encode_fn(params, null_labels))
        net = Denoiser(eps_fn, params, null, self.schedule)
        x_t, t = noised.x_t, noised.t
        state = State(x_t, t, cond, eps(x_t, t, output), eps(x_t, t, null_output))
        value = jax.lax.stop_gradient(self.options.detector(state, net))
        detector = self.options.detector
        raw = detector.is_norm and not getattr(detector, "rms", False)
        return value / math.sqrt(x_t[0].size) if raw and self.options.filter_rms else value
