"""The denoising objective: targets, per-example losses, weights and condition dropout."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from memjax.core.process import PREDICTIONS, v_from_eps
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array


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
